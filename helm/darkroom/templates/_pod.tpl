{{/* A room's pod template. In: root, and a room's facts as `darkroom.room` gives them. */}}
{{- define "darkroom.pod" -}}
{{- $root := .root -}}
{{- $values := .values -}}
metadata:
  labels:
    {{- with $values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
    {{- include "darkroom.labels" . | nindent 4 }}
  annotations:
    {{- with $values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
    checksum/catalog: {{ ternary (toJson $root.Values.catalog.files) "" (hasKey . "catalog") | sha256sum }}
spec:
  serviceAccountName: {{ include "darkroom.fullname" $root }}-{{ .room }}
  {{- include "darkroom.podSecurity" . | nindent 2 }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  # the app may use its grace twice (drain, then end calls under way), after the sleep that lets DNS forget this pod
  terminationGracePeriodSeconds: {{ addf 15 (mulf 2.1 (float64 .settings.shutdown_grace_s)) | ceil | int }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" }}
  {{- with get $values $key }}
  {{ $key }}: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  topologySpreadConstraints:
    {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ $key }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector: {matchLabels: {{ include "darkroom.selector" $ | fromYaml | toJson }}}
    {{- end }}
  containers:
    - name: {{ .room }}
      image: {{ include "darkroom.image" (dict "root" $root "target" (ternary "runner" "control" (hasKey . "runner"))) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .serves }}]
      env: {{- include "darkroom.env" . | nindent 8 }}
      {{- if and .blobs $root.Values.secrets.blobs.name }}
      envFrom: [{secretRef: {name: {{ $root.Values.secrets.blobs.name }}}}]
      {{- end }}
      ports:
        - {name: grpc, containerPort: 50051}
        - {name: health, containerPort: 50052}
        - {name: metrics, containerPort: 9090}
        {{- if .http }}
        - {name: http, containerPort: 8080}
        {{- end }}
      {{- /* rooms may migrate their tables first, for an hour at most */}}
      {{- $startup := default (ternary 120 3600 (hasKey . "runner")) $values.startupSeconds }}
      startupProbe: {grpc: {port: 50052}, periodSeconds: 5, timeoutSeconds: 3, failureThreshold: {{ divf $startup 5 | ceil | int }}}
      readinessProbe: {grpc: {port: 50052}, periodSeconds: 5, timeoutSeconds: 3, failureThreshold: 2}
      livenessProbe: {grpc: {port: 50052}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
      lifecycle: {preStop: {sleep: {seconds: 5}}}
      securityContext: {{- include "darkroom.containerSecurity" . | nindent 8 }}
      {{- with $values.resources }}
      resources: {{ toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts: {{- include "darkroom.mounts" . | nindent 8 }}
  volumes: {{- include "darkroom.volumes" . | nindent 4 }}
{{- end }}

{{/* The restricted Pod Security profile, and no more of the cluster than that. */}}
{{- define "darkroom.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false  # they would set DARKROOM_… variables
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "darkroom.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "darkroom.mounts" -}}
- {name: tls, mountPath: /etc/darkroom/tls, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if .runner }}
- {name: cache, mountPath: /var/cache/darkroom}
{{- with .root.Values.models }}{{- if .existingClaim }}
- {name: models, mountPath: {{ .mountPath }}, readOnly: true}
{{- end }}{{- end }}
{{- end }}
{{- if and .catalog .root.Values.catalog.files }}
- {name: catalog, mountPath: /etc/darkroom/catalog, readOnly: true}
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "darkroom.volumes" -}}
- {name: tls, secret: {secretName: {{ include "darkroom.tlsSecret" (dict "root" .root "room" .room "own" .values.tlsSecret) }}, defaultMode: 0440}}
- {name: tmp, emptyDir: {sizeLimit: {{ default "10Gi" .values.tmpSizeLimit }}}}
{{- if .runner }}
- {name: cache, emptyDir: {sizeLimit: {{ default "10Gi" .values.cacheSizeLimit }}}}
{{- with .root.Values.models.existingClaim }}
- {name: models, persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}}
{{- end }}
{{- end }}
{{- if and .catalog .root.Values.catalog.files }}
- {name: catalog, configMap: {name: {{ include "darkroom.fullname" .root }}-catalog}}
{{- end }}
{{- with .values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
