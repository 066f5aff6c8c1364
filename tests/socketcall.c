/* A 32-bit program without a C library, for tests/vsock.rs: makes sockets by the two ways that the i386 ABI has,
 * and speaks by vsock to the agent and to the host. */

enum { EXIT = 1, READ = 3, WRITE = 4, SOCKETCALL = 102, SOCKET = 359 };
enum { SUB_SOCKET = 1, SUB_CONNECT = 3 };
enum { AF_INET = 2, AF_VSOCK = 40, SOCK_STREAM = 1 };

struct sockaddr_vm { unsigned short family, reserved; unsigned port, cid, zero; };

static int call(int number, int first, int second, int third)
{
	int result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second), "d"(third) : "memory");
	return result;
}

static void print(const char *text)
{
	int length = 0;

	while (text[length])
		length++;
	call(WRITE, 1, (int)text, length);
}

static void print_number(unsigned number)
{
	char digit[2] = { '0' + number % 10, 0 };

	if (number >= 10)
		print_number(number / 10);
	print(digit);
}

static int socketcall(int sub, int first, int second, int third)
{
	int arguments[3] = { first, second, third };

	return call(SOCKETCALL, sub, (int)arguments, 0);
}

static void report(const char *what, int result)
{
	print(what);
	if (result < 0) {
		print(": error ");
		print_number(-result);
	} else {
		print(": made");
	}
	print("\n");
}

static void speak(unsigned cid, unsigned port, const char *words, int length)
{
	struct sockaddr_vm address = { AF_VSOCK, 0, port, cid, 0 };
	int peer = socketcall(SUB_SOCKET, AF_VSOCK, SOCK_STREAM, 0);
	int answer = 0;
	char buffer[64];

	if (socketcall(SUB_CONNECT, peer, (int)&address, sizeof(address)) == 0) {
		call(WRITE, peer, (int)words, length);
		answer = call(READ, peer, (int)buffer, sizeof(buffer));
	}
	print_number(cid);
	print(":");
	print_number(port);
	print(answer > 0 ? " answers\n" : " is silent\n");
}

void _start(void)
{
	unsigned cid;

	report("inet by socket", call(SOCKET, AF_INET, SOCK_STREAM, 0));
	report("inet by socketcall", socketcall(SUB_SOCKET, AF_INET, SOCK_STREAM, 0));
	report("vsock by socket", call(SOCKET, AF_VSOCK, SOCK_STREAM, 0));
	/* Loopback, the host, the guest's own. */
	for (cid = 1; cid <= 3; cid++) {
		speak(cid, 1024, "\0\0\0\2\0\0\0\1\1\0xx", 12);
		speak(cid, 1025, "hull-stdio ab\n", 14);
	}
	call(EXIT, 0, 0, 0);
}
