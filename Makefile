# Everything a person or CI does with the checkout. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PREFIX ?= /usr/local
DESTDIR ?=
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
RELEASE := $(CARGO_TARGET_DIR)/release
IMAGES := $(CARGO_TARGET_DIR)/test-images
KVM_TESTS := $(CARGO_TARGET_DIR)/kvm-tests
# Further arguments of nextest for the tests in the lab: `make test-kvm KVM="-E 'binary(run)'"`. What the profile `kvm`
# leaves out needs --ignore-default-filter as well.
KVM ?=
# The image that `make demo` runs: a registry's where it is reachable, else one made from Debian's packages.
DEMO_IMAGE ?= docker.io/library/debian:stable-slim
# Programs whose tests are of pods: containerd's sandboxer `shim` has only those.
POD_TESTS := links|mounts|pod_faults|pod_metrics|pod_networks|pods|sizes|volumes
# VMMs besides QEMU, which is always there.
FURTHER_VMMS := cloud-hypervisor firecracker
# What runs once more with guests that go on from templates, where a VMM takes snapshots.
TEMPLATE_TESTS := -E 'binary(faults) + binary(lifecycle) + binary(network) + binary(run) + binary(terminal)'
# How long the tests may take in the lab, in seconds.
LAB_SECONDS ?= 2700
# Where `make bench-kvm` leaves its figures as JSON.
BENCH_OUT ?= $(CARGO_TARGET_DIR)/bench
# How long `make fuzz` runs each target, in seconds.
FUZZ_SECONDS ?= 30
SCRIPTS := guest/build guest/build-kernel guest/build-initramfs guest/cache.bash .ci/deps .ci/run fuzz/run \
	tests/newest/debian.bash tests/newest/containerd tests/newest/engines tests/lab/lab tests/lab/init tests/lab/main tests/images/oci.bash \
	tests/images/make-busybox tests/images/make-debian \
	deploy/installer/hull-node deploy/installer/hull-node-pod deploy/installer/make-image

.PHONY: help deps build guest images demo test test-files test-containerd test-engines test-kvm test-vmms bench bench-kvm lint fuzz install installer-image

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

deps: ## install the packages and tools that the build and the tests need (Debian 12 or 13)
	@.ci/deps

build: deps ## build the programs (release)
	cargo build --locked --release --package hull --package hull-shim --package hull-devices --package hull-runtime

guest: deps ## build the guest's kernel and initramfs, or take them from the cache
	@guest/build

demo: build guest ## run a container from a real image in a VM
	@hull=$(RELEASE)/hull; image=$(DEMO_IMAGE); \
	if ! $$hull pull "$$image"; then \
	  echo "demo: cannot pull $$image; making an image from Debian's packages"; \
	  image=oci:$$(tests/images/make-debian)/oci; \
	fi; \
	echo "kernel of this machine:  $$(uname -r)"; \
	kernel=$$($$hull run --rm "$$image" uname -r); \
	echo "kernel of the container: $$kernel"; \
	$$hull run --rm "$$image" cat /etc/os-release

test: build guest images ## run all tests; where KVM does not work, the end-to-end ones under emulation and in the lab
	cargo nextest run --locked --workspace
	@$(MAKE) test-files test-containerd test-engines
	@# Where KVM works, that was on KVM. The check fails when anything is missing; here it is asked for one line.
	@if { $(RELEASE)/hull check || true; } | grep '^ok  *KVM '; then \
	  echo "test: KVM works here, the lab is not needed"; \
	else \
	  $(MAKE) test-kvm; \
	fi
	@$(MAKE) test-vmms

test-files: build guest images ## run the tests of files once more with those of the host over vsock, and with images of roots
	HULL_TEST_FILE_SHARING=vsock cargo nextest run --locked --workspace -E 'binary(/^(run|storage|volumes)$$/)'
	HULL_TEST_ROOT=image cargo nextest run --locked --workspace -E 'binary(/^(run|volumes|pods)$$/)'

test-containerd: build guest images ## run the tests with containerd once more with Debian's newest, also as a sandboxer
	@containerd=$$(tests/newest/containerd); \
	if [ -n "$$containerd" ]; then \
	  export HULL_CONTAINERD=$$containerd; \
	  cargo nextest run --locked --workspace -E 'binary(/^(containerd|ctr|pull|snapshotters|$(POD_TESTS))$$/)'; \
	  HULL_SANDBOXER=shim cargo nextest run --locked --workspace -E 'binary(/^($(POD_TESTS))$$/)'; \
	fi

test-engines: build guest images ## run the tests of Podman and Docker once more with those of Debian's newest release
	@engines=$$(tests/newest/engines); \
	if [ -n "$$engines" ]; then \
	  HULL_ENGINES=$$engines cargo nextest run --locked --workspace \
	    -E 'binary(/^(docker|podman|podman_faults|podman_pods|podman_rootless)$$/)'; \
	fi

test-kvm: build guest images ## run end-to-end tests under real KVM in the lab, on a machine that has none
	@mkdir -p $(KVM_TESTS)
	@# What is built, and where, is asked for here: cargo would need minutes for it in the lab.
	cargo metadata --locked --format-version 1 > $(KVM_TESTS)/workspace.json
	cargo nextest list --locked --workspace --list-type binaries-only --message-format json \
	  > $(KVM_TESTS)/programs.json
	@# The larger amounts that CI asks for are for the other run: they do not depend on what a guest runs on.
	env --unset=HULL_TEST_STREAM_MIB --unset=HULL_TEST_RUNS tests/lab/lab run --timeout $(LAB_SECONDS) -- \
	  cargo nextest run --profile kvm --cargo-metadata $(KVM_TESTS)/workspace.json \
	  --binaries-metadata $(KVM_TESTS)/programs.json $(KVM)

test-vmms: build guest images ## run end-to-end tests with each further VMM that is there, under KVM, in the lab if need be
	@checked=$$($(RELEASE)/hull check || true); with=qemu; \
	for vmm in $(FURTHER_VMMS); do \
	  if ! grep "^ok  *$$vmm " <<< "$$checked"; then continue; fi; \
	  if grep -q '^ok  *KVM ' <<< "$$checked"; then \
	    HULL_TEST_VMM=$$vmm cargo nextest run --profile kvm --locked --workspace $(KVM); \
	    HULL_TEST_VMM=$$vmm HULL_TEST_START=template \
	      cargo nextest run --profile kvm --locked --workspace $(TEMPLATE_TESTS); \
	  else \
	    HULL_TEST_VMM=$$vmm $(MAKE) test-kvm; \
	    HULL_TEST_VMM=$$vmm HULL_TEST_START=template $(MAKE) test-kvm KVM="$(TEMPLATE_TESTS)"; \
	  fi; \
	  with+=" $$vmm"; \
	done; \
	echo "test: the end-to-end tests ran with these VMMs, of qemu $(FURTHER_VMMS): $$with"

images: deps
	@mkdir -p $(IMAGES)
	@ln -sfnT "$$(tests/images/make-busybox)/oci" $(IMAGES)/busybox
	@ln -sfnT "$$(tests/images/make-debian)/oci" $(IMAGES)/debian

bench: build guest ## measure side by side what Hull costs (BENCH="--runs 5 --only start")
	cargo run --locked --release --package hull-bench -- $(BENCH)

bench-kvm: build guest images ## the same under real KVM in the lab, where a CPU is a translated one
	cargo build --locked --release --package hull-bench
	tests/lab/lab run --memory 6144 --timeout $(LAB_SECONDS) --out $(BENCH_OUT) -- \
	  $(RELEASE)/hull-bench --output $(BENCH_OUT)/bench-results.json $(BENCH)

lint: ## formatting, clippy, dependency licences and advisories, shell scripts
	@.ci/deps lint
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo deny --locked check licenses bans sources
	@# The advisories come from a host that is not reachable everywhere.
	@if timeout 120 cargo deny --locked fetch db; then cargo deny --locked check advisories; \
	else echo "lint: the advisories cannot be fetched and are NOT checked"; fi
	shellcheck -x --severity=warning $(SCRIPTS)

fuzz: deps ## build the fuzz targets and run each for FUZZ_SECONDS
	@fuzz/run $(FUZZ_SECONDS)

install: ## install what `make build guest` made below $(DESTDIR)$(PREFIX)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/hull $(DESTDIR)$(PREFIX)/share/hull
	install -m 755 $(RELEASE)/hull $(RELEASE)/hull-runtime $(RELEASE)/containerd-shim-hull-v2 $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(RELEASE)/hull-fs $(RELEASE)/hull-net $(RELEASE)/hull-vsock $(DESTDIR)$(PREFIX)/libexec/hull/
	install -m 644 $(addprefix $(CARGO_TARGET_DIR)/guest/,vmlinux initramfs.img guest.json) $(DESTDIR)$(PREFIX)/share/hull/
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -d $(DESTDIR)$(PREFIX)/share/hull/containerd
	install -m 644 deploy/containerd/version-2.toml deploy/containerd/version-3.toml $(DESTDIR)$(PREFIX)/share/hull/containerd/
	install -m 755 deploy/installer/hull-node $(DESTDIR)$(PREFIX)/libexec/hull/
	install -m 644 deploy/installer/versions.bash deploy/installer/containerd.bash $(DESTDIR)$(PREFIX)/libexec/hull/
	$(RELEASE)/hull man --output $(DESTDIR)$(PREFIX)/share/man/man1
	$(RELEASE)/hull completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/hull
	$(RELEASE)/hull completions zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_hull
	$(RELEASE)/hull completions fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/hull.fish

installer-image: build guest ## make the image of the Helm chart's pods, an OCI layout: target/installer-image
	@deploy/installer/make-image $(CARGO_TARGET_DIR)/installer-image
	@echo "installer image: skopeo copy oci:$(CARGO_TARGET_DIR)/installer-image:latest docker://REGISTRY/hull-installer:VERSION"
