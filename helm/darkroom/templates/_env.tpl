{{/* The container's environment. In: root, and a room's facts as `darkroom.room` gives them. */}}
{{- define "darkroom.env" -}}
{{- $root := .root -}}
- {name: DARKROOM_LISTEN_ADDRESS, value: "0.0.0.0:50051"}
- {name: DARKROOM_HEALTH_ADDRESS, value: "0.0.0.0:50052"}
- {name: DARKROOM_METRICS_ADDRESS, value: "0.0.0.0:9090"}
{{ include "darkroom.tlsEnv" . }}
- name: DARKROOM_SERVICE_SECRET
  valueFrom: {secretKeyRef: {name: {{ $root.Values.secrets.platform.name }}, key: {{ $root.Values.secrets.platform.serviceSecretKey }}}}
{{- range .calls }}
{{ include "darkroom.addressEnv" (dict "root" $root "room" .) }}
{{- end }}
{{- if .database }}
- name: DARKROOM_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ $root.Values.secrets.database.name }}, key: {{ $root.Values.secrets.database.urlKey }}}}
{{- end }}
{{- if .operatorKey }}
- name: DARKROOM_OPERATOR_KEY
  valueFrom: {secretKeyRef: {name: {{ $root.Values.secrets.platform.name }}, key: {{ $root.Values.secrets.platform.operatorKeyKey }}}}
{{- end }}
{{- if .blobs }}
- {name: DARKROOM_BLOB_URL, value: {{ $root.Values.blobs.url | quote }}}
{{- range $name, $value := $root.Values.blobs.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- if .http }}
- {name: DARKROOM_HTTP_ADDRESS, value: "0.0.0.0:8080"}
- {name: DARKROOM_PUBLIC_URL, value: {{ default (printf "http://%s:8080" (include "darkroom.host" .)) .values.publicUrl | quote }}}
{{- end }}
{{- if and .catalog $root.Values.catalog.files }}
- {name: DARKROOM_CATALOG_DIR, value: /etc/darkroom/catalog}
{{- end }}
{{- if .runner }}
- {name: DARKROOM_NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: DARKROOM_ADVERTISE_ADDRESS, value: "$(POD_NAME).{{ include "darkroom.host" . }}:50051"}
- {name: DARKROOM_CACHE_DIR, value: /var/cache/darkroom/adapters}
- {name: DARKROOM_KERNEL_CACHE_DIR, value: /var/cache/darkroom/kernels}
{{- end }}
{{- range $name, $value := .settings }}
- {name: DARKROOM_{{ upper $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "darkroom.tlsEnv" -}}
- {name: DARKROOM_TLS_CERT_PATH, value: /etc/darkroom/tls/tls.crt}
- {name: DARKROOM_TLS_KEY_PATH, value: /etc/darkroom/tls/tls.key}
- {name: DARKROOM_TLS_CA_PATH, value: /etc/darkroom/tls/ca.crt}
{{- end }}

{{/* Where another room is. In: root, room. */}}
{{- define "darkroom.addressEnv" -}}
- {name: DARKROOM_{{ .room | upper | replace "-" "_" }}_ADDRESS, value: "{{ include "darkroom.host" . }}:50051"}
{{- end }}
