{{/*
The five rooms. `calls` are the rooms whose address it is given; `dials` those it reaches by the address they announce.
Environment, volumes and network policies all follow from this table.
*/}}
{{- define "darkroom.rooms" -}}
scheduler: {serves: scheduler, values: scheduler, calls: [billing-meter, lora-store, media-store], dials: [model-runner], database: true, catalog: true, clients: true}
lora-store: {serves: lora_store, values: loraStore, calls: [billing-meter], database: true, blobs: true, catalog: true, clients: true}
media-store: {serves: media_store, values: mediaStore, calls: [billing-meter], database: true, blobs: true, http: true, clients: true}
billing-meter: {serves: billing_meter, values: billingMeter, calls: [], database: true, operatorKey: true, catalog: true, clients: true}
model-runner: {serves: model_runner, calls: [scheduler, lora-store, media-store], catalog: true, runner: true}
{{- end }}

{{/*
What the templates of one room need. In: root, room (a name of the table), and for a pool its name.
Out: YAML of {room, name, values, settings} beside the table's row.
*/}}
{{- define "darkroom.room" -}}
{{- $row := get (include "darkroom.rooms" .root | fromYaml) .room -}}
{{- $name := printf "%s-%s" (include "darkroom.fullname" .root) .room -}}
{{- $values := dict -}}
{{- if .pool -}}
{{- $name = printf "%s-%s" $name .pool -}}
{{- $values = get .root.Values.runnerPools .pool -}}
{{- else if $row.values -}}
{{- $values = get .root.Values $row.values -}}
{{- end -}}
{{- $settings := dict -}}
{{- range $key, $value := .root.Values.settings }}{{- $_ := set $settings $key $value }}{{- end -}}
{{- range $key, $value := $values.settings }}{{- $_ := set $settings $key $value }}{{- end -}}
{{- $texts := dict -}}
{{- range $key, $value := $settings }}{{- $_ := set $texts $key (include "darkroom.settingText" $value) }}{{- end -}}
{{- $own := dict "room" .room "pool" (default "" .pool) "name" $name "values" $values "settings" $texts -}}
{{- toYaml (merge $own $row) -}}
{{- end }}

{{/* A setting as the environment says it: lists by commas, whole numbers without an exponent. */}}
{{- define "darkroom.settingText" -}}
{{- if kindIs "slice" . -}}{{ join "," . }}
{{- else if kindIs "float64" . -}}{{ if eq . (floor .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else -}}{{ . }}{{ end -}}
{{- end }}

{{/* At most 24 characters: a StatefulSet's name, with room and pool behind it, must stay within 52. */}}
{{- define "darkroom.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 24 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}{{ .Release.Name | trunc 24 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 24 | trimSuffix "-" }}{{- end -}}
{{- end }}

{{/* host of a room's service. In: root, room. */}}
{{- define "darkroom.host" -}}
{{ include "darkroom.fullname" .root }}-{{ .room }}.{{ .root.Release.Namespace }}.svc
{{- end }}

{{/* What selects a room's pods. In: root, room and, if only one pool is meant, pool. */}}
{{- define "darkroom.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .room }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .pool }}
darkroom/pool: {{ . }}
{{- end }}
{{- end }}

{{- define "darkroom.labels" -}}
{{ include "darkroom.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: darkroom
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* The image of one target. In: root, target (control or runner). */}}
{{- define "darkroom.image" -}}
{{- $image := get .root.Values.image .target -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end }}{{ $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .root.Chart.AppVersion $image.tag }}{{ end -}}
{{- end }}

{{/* The secret with a room's certificate. In: root, room, own (the room's own choice). */}}
{{- define "darkroom.tlsSecret" -}}
{{- if .own }}{{ .own }}
{{- else if .root.Values.tls.certManager.enabled }}{{ include "darkroom.fullname" .root }}-{{ .room }}-tls
{{- else }}{{ .root.Values.tls.existingSecret }}{{ end -}}
{{- end }}
