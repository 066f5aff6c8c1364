{{- define "hull.name" -}}
{{- if contains "hull" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-hull" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "hull.labels" -}}
{{ include "hull.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "hull.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hull.image" -}}
{{ required "image.repository: where the image that `make installer-image` made is" .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* A daemon set's specification; `command` is hull-node-pod's: the same pod installs and uninstalls. */}}
{{- define "hull.daemonSet" -}}
{{- $command := .command -}}
{{- with .root -}}
selector:
  matchLabels:
    {{- include "hull.selector" . | nindent 4 }}
    app.kubernetes.io/component: {{ $command }}
updateStrategy:
  rollingUpdate:
    maxUnavailable: {{ if eq $command "install" }}{{ .Values.maxUnavailable }}{{ else }}100%{{ end }}
template:
  metadata:
    labels:
      {{- include "hull.labels" . | nindent 6 }}
      app.kubernetes.io/component: {{ $command }}
    annotations:
      # A pod reads its settings when it starts.
      checksum/config: {{ .Values.config | sha256sum | quote }}
      {{- with .Values.podAnnotations }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    serviceAccountName: {{ include "hull.name" . }}
    {{- with .Values.imagePullSecrets }}
    imagePullSecrets:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.priorityClassName }}
    priorityClassName: {{ . }}
    {{- end }}
    nodeSelector:
      kubernetes.io/os: linux
      kubernetes.io/arch: amd64
      {{- with .Values.nodeSelector }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with .Values.tolerations }}
    tolerations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.affinity }}
    affinity:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    terminationGracePeriodSeconds: 10
    containers:
      - name: hull-node
        image: {{ include "hull.image" . | quote }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        command: [hull-node-pod, {{ $command }}]
        env:
          - name: NODE_NAME
            valueFrom:
              fieldRef:
                fieldPath: spec.nodeName
          - name: HOST_ROOT
            value: /host
          - name: PREFIX
            value: {{ .Values.prefix | quote }}
          - name: RESTART_COMMAND
            value: {{ .Values.restartCommand | quote }}
          - name: REQUIRE_KVM
            value: {{ .Values.requireKvm | quote }}
          - name: READY_FILE
            value: /run/hull-node/ready
          {{- if .Values.config }}
          - name: SETTINGS
            value: /settings/config.toml
          {{- end }}
        readinessProbe:
          exec:
            command: [test, -e, /run/hull-node/ready]
          periodSeconds: 2
        {{- with .Values.securityContext }}
        securityContext:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with .Values.resources }}
        resources:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        volumeMounts:
          - name: prefix
            mountPath: /host{{ .Values.prefix }}
          - name: containerd
            mountPath: /host/etc/containerd
          - name: hull
            mountPath: /host/etc/hull
          # Who uses which version: the command lines of the node's processes.
          - name: proc
            mountPath: /host/proc
            readOnly: true
          # The node's systemd. The directory, as the socket is another one after a restart of D-Bus.
          - name: dbus
            mountPath: /run/dbus
            readOnly: true
          - name: ready
            mountPath: /run/hull-node
          - name: tmp
            mountPath: /tmp
          {{- if .Values.config }}
          - name: settings
            mountPath: /settings
            readOnly: true
          {{- end }}
    volumes:
      - name: prefix
        hostPath:
          path: {{ .Values.prefix | quote }}
          type: DirectoryOrCreate
      - name: containerd
        hostPath:
          path: /etc/containerd
          type: DirectoryOrCreate
      - name: hull
        hostPath:
          path: /etc/hull
          type: DirectoryOrCreate
      - name: proc
        hostPath:
          path: /proc
      - name: dbus
        hostPath:
          path: /run/dbus
      - name: ready
        emptyDir: {}
      - name: tmp
        emptyDir: {}
      {{- if .Values.config }}
      - name: settings
        configMap:
          name: {{ include "hull.name" . }}
      {{- end }}
{{- end }}
{{- end }}
