{{/* Values that the schema allows one by one, but that do not go together. All faults are told at once. */}}
{{- define "darkroom.validate" -}}
{{- $faults := list -}}
{{- range $path := list "platform" "database" -}}
{{- if not (get $.Values.secrets $path).name -}}
{{- $faults = append $faults (printf "secrets.%s.name is empty: name an existing secret (k8s/README.md shows how to make one)" $path) -}}
{{- end -}}
{{- end -}}
{{- $tls := .Values.tls -}}
{{- if and $tls.existingSecret $tls.certManager.enabled -}}
{{- $faults = append $faults "tls.existingSecret and tls.certManager.enabled exclude each other" -}}
{{- end -}}
{{- if not (or $tls.existingSecret $tls.certManager.enabled) -}}
{{- $faults = append $faults "rooms speak mutual TLS only: set tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and $tls.certManager.enabled (not $tls.certManager.issuerRef.name) -}}
{{- $faults = append $faults "tls.certManager.issuerRef.name is empty: name an issuer" -}}
{{- end -}}
{{- if not .Values.blobs.url -}}
{{- $faults = append $faults "blobs.url is empty: say where bytes lie, such as s3://bucket/prefix" -}}
{{- end -}}
{{- if hasPrefix "file:" .Values.blobs.url -}}
{{- range $room := list "loraStore" "mediaStore" -}}
{{- $values := get $.Values $room -}}
{{- if gt (int $values.replicas) 1 -}}
{{- $faults = append $faults (printf "%s.replicas must be 1 while blobs.url is a file: URL: replicas do not share a disk" $room) -}}
{{- end -}}
{{- if not $values.extraVolumeMounts -}}
{{- $faults = append $faults (printf "%s.extraVolumeMounts must mount a volume at blobs.url: without it the bytes go with the pod" $room) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $room := list "scheduler" "loraStore" "mediaStore" "billingMeter" -}}
{{- $faults = concat $faults (include "darkroom.budgetFaults" (list $room (get $.Values $room)) | fromJsonArray) -}}
{{- end -}}
{{- if not .Values.runnerPools -}}
{{- $faults = append $faults "runnerPools is empty: nothing would be generated" -}}
{{- end -}}
{{- range $name, $pool := .Values.runnerPools -}}
{{- $path := printf "runnerPools.%s" $name -}}
{{- $faults = concat $faults (include "darkroom.budgetFaults" (list $path $pool) | fromJsonArray) -}}
{{- $settings := default dict $pool.settings -}}
{{- if $settings.models -}}
{{- range $settings.preload -}}
{{- if not (has . $settings.models) -}}
{{- $faults = append $faults (printf "%s.settings.preload names %s, which is not among its models" $path .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $limits := default dict (default dict $pool.resources).limits -}}
{{- $requests := default dict (default dict $pool.resources).requests -}}
{{- if and $settings.host_cache_bytes_max (not (or $limits.memory $requests.memory)) -}}
{{- $faults = append $faults (printf "%s.settings.host_cache_bytes_max cannot be swapped out: its resources must ask for memory" $path) -}}
{{- end -}}
{{- if and (hasPrefix "cuda" (default "" $settings.device)) (not (include "darkroom.hasGpu" $limits)) -}}
{{- $faults = append $faults (printf "%s.settings.device is %s, but its resources.limits ask for no nvidia.com GPU" $path $settings.device) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.metricsPeers) -}}
{{- $faults = append $faults "serviceMonitor.enabled needs networkPolicy.metricsPeers: nobody could read the metrics" -}}
{{- end -}}
{{- if $faults -}}
{{- fail (printf "\n- %s\n" (join "\n- " $faults)) -}}
{{- end -}}
{{- end }}

{{/* In: [path, values of a room or a pool]. Out: a JSON list of faults. */}}
{{- define "darkroom.budgetFaults" -}}
{{- $values := index . 1 -}}
{{- $minimum := (default dict $values.podDisruptionBudget).minAvailable -}}
{{- if and $minimum (ge (int $minimum) (int $values.replicas)) -}}
{{- list (printf "%s.podDisruptionBudget.minAvailable must be below replicas, else no node can be drained" (index . 0)) | toJson -}}
{{- else -}}[]{{- end -}}
{{- end }}

{{- define "darkroom.hasGpu" -}}
{{- range $name, $count := . }}{{ if hasPrefix "nvidia.com/" $name }}yes{{ end }}{{ end -}}
{{- end }}
