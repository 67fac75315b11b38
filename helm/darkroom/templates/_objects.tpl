{{/* What a room has beside its pods. In: root, and a room's facts as `darkroom.room` gives them. */}}
{{- define "darkroom.metadata" -}}
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "darkroom.labels" . | nindent 4 }}
{{- end }}

{{- define "darkroom.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
{{ include "darkroom.metadata" . }}
  {{- with .values.serviceAccountAnnotations }}
  annotations: {{ toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{/* Headless: gRPC's own round_robin sees every replica; a runner is dialled by its pod's name. */}}
{{- define "darkroom.service" -}}
apiVersion: v1
kind: Service
{{ include "darkroom.metadata" . }}
spec:
  clusterIP: None
  {{- if .runner }}
  publishNotReadyAddresses: true  # a draining runner still tells its owner how its attempts end
  {{- end }}
  selector: {{- include "darkroom.selector" . | nindent 4 }}
  ports:
    - {name: grpc, port: 50051, targetPort: grpc}
    - {name: metrics, port: 9090, targetPort: metrics}
    {{- if .http }}
    - {name: http, port: 8080, targetPort: http}
    {{- end }}
{{- end }}

{{- define "darkroom.deployment" -}}
apiVersion: apps/v1
kind: Deployment
{{ include "darkroom.metadata" . }}
spec:
  replicas: {{ .values.replicas }}
  revisionHistoryLimit: 5
  selector: {matchLabels: {{ include "darkroom.selector" . | fromYaml | toJson }}}
  {{- if and .blobs (hasPrefix "file:" .root.Values.blobs.url) }}
  strategy: {type: Recreate}  # the volume is for one pod
  {{- else }}
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  {{- end }}
  template: {{- include "darkroom.pod" . | nindent 4 }}
{{- end }}

{{- define "darkroom.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
{{ include "darkroom.metadata" . }}
spec:
  {{- $budget := default dict .values.podDisruptionBudget }}
  {{- if hasKey $budget "minAvailable" }}
  minAvailable: {{ $budget.minAvailable }}
  {{- else }}
  maxUnavailable: 1
  {{- end }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector: {matchLabels: {{ include "darkroom.selector" . | fromYaml | toJson }}}
{{- end }}

{{/* Who may reach a room and whom it may reach; `network.yaml` denies all else. */}}
{{- define "darkroom.networkPolicy" -}}
{{- $root := .root -}}
{{- $policy := $root.Values.networkPolicy -}}
{{- $room := .room -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
{{ include "darkroom.metadata" . }}
spec:
  podSelector: {matchLabels: {{ include "darkroom.selector" (omit . "pool") | fromYaml | toJson }}}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{port: 50051}]
      from:
        {{- range $name, $row := include "darkroom.rooms" $root | fromYaml }}
        {{- if or (has $room $row.calls) (has $room (default list $row.dials)) }}
        - {{ include "darkroom.peer" (dict "root" $root "room" $name) }}
        {{- end }}
        {{- end }}
        {{- if .clients }}
        - {{ include "darkroom.peer" (dict "root" $root "room" "client") }}
        {{- with $policy.clientPeers }}{{ toYaml . | nindent 8 }}{{ end }}
        {{- end }}
    {{- if .http }}
    - ports: [{port: 8080}]
      from:
        - {{ include "darkroom.peer" (dict "root" $root "room" "client") }}
        {{- with $policy.httpPeers }}{{ toYaml . | nindent 8 }}{{ end }}
    {{- end }}
    {{- with $policy.metricsPeers }}
    - ports: [{port: 9090}]
      from: {{ toYaml . | nindent 8 }}
    {{- end }}
  egress:
    {{- with concat .calls (default list .dials) }}
    - ports: [{port: 50051}]
      to:
        {{- range . }}
        - {{ include "darkroom.peer" (dict "root" $root "room" .) }}
        {{- end }}
    {{- end }}
    {{- if .database }}
    {{- include "darkroom.egress" (list $policy.databasePort $policy.databasePeers) | nindent 4 }}
    {{- end }}
    {{- if and .blobs (not (hasPrefix "file:" $root.Values.blobs.url)) }}
    {{- include "darkroom.egress" (list $policy.blobPort $policy.blobPeers) | nindent 4 }}
    {{- end }}
    {{- if .settings.otlp_endpoint }}
    {{- include "darkroom.egress" (list $policy.otlpPort $policy.otlpPeers) | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "darkroom.peer" -}}
podSelector: {matchLabels: {{ include "darkroom.selector" . | fromYaml | toJson }}}
{{- end }}

{{/* Outside the chart: anywhere on this port, unless peers narrow it. In: [port, peers]. */}}
{{- define "darkroom.egress" -}}
- ports: [{port: {{ index . 0 }}}]
  {{- with index . 1 }}
  to: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
