{{- define "dynsvc.labels" -}}
app.kubernetes.io/name: dynsvc
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "dynsvc.selector" -}}
app.kubernetes.io/name: dynsvc
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dynsvc.image" -}}
{{ .repository }}:{{ .tag }}
{{- end }}

{{- /* What bridge and workers are told. */ -}}
{{- define "dynsvc.env" -}}
- { name: DYNSVC_CONFIG, value: /etc/dynsvc/config/config.json }
- { name: DYNSVC_ORDERS__REDIS__HOST, value: {{ .Values.redis.host | quote }} }
- { name: DYNSVC_ORDERS__REDIS__PORT, value: {{ .Values.redis.port | quote }} }
- { name: DYNSVC_ORDERS__REDIS__TLS, value: {{ .Values.redis.tls | quote }} }
- name: DYNSVC_ORDERS__REDIS__PASSWORD
  valueFrom: { secretKeyRef: { name: {{ .Values.redis.passwordSecret }}, key: password } }
{{- if .Values.redis.caSecret }}
- { name: SSL_CERT_FILE, value: /etc/dynsvc/ca/ca.crt }
{{- end }}
- { name: DYNSVC_ARTIFACTS, value: {{ .Values.artifacts.uri | quote }} }
{{- if .Values.artifacts.s3Endpoint }}
- { name: AWS_ENDPOINT_URL_S3, value: {{ .Values.artifacts.s3Endpoint | quote }} }
- { name: AWS_REGION, value: {{ .Values.artifacts.s3Region | quote }} }
{{- end }}
- { name: DYNSVC_LOG_FORMAT, value: json }
- { name: DYNSVC_METRICS_HOST, value: "0.0.0.0" }
- { name: DYNSVC_METRICS_PORT, value: "9464" }
{{- range $name, $value := .Values.settings }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- end }}

{{- define "dynsvc.envFrom" -}}
{{- if .Values.artifacts.s3Secret -}}
envFrom: [{ secretRef: { name: {{ .Values.artifacts.s3Secret }} } }]
{{- end }}
{{- end }}

{{- define "dynsvc.mounts" -}}
- { name: config, mountPath: /etc/dynsvc/config, readOnly: true }
- { name: tmp, mountPath: /tmp }
{{- if .Values.redis.caSecret }}
- { name: ca, mountPath: /etc/dynsvc/ca, readOnly: true }
{{- end }}
{{- if .Values.artifacts.claim }}
- { name: artifacts, mountPath: /var/lib/dynsvc/artifacts }
{{- end }}
{{- end }}

{{- define "dynsvc.volumes" -}}
- { name: config, configMap: { name: {{ .Release.Name }}-config } }
- { name: tmp, emptyDir: { sizeLimit: 256Mi } }
{{- if .Values.redis.caSecret }}
- { name: ca, secret: { secretName: {{ .Values.redis.caSecret }} } }
{{- end }}
{{- if .Values.artifacts.claim }}
- { name: artifacts, persistentVolumeClaim: { claimName: {{ .Values.artifacts.claim }} } }
{{- end }}
{{- end }}

{{- define "dynsvc.probes" -}}
ports: [{ name: metrics, containerPort: 9464 }]
startupProbe: { httpGet: { path: /healthz, port: metrics }, periodSeconds: 2, failureThreshold: 60 }
livenessProbe: { httpGet: { path: /healthz, port: metrics }, periodSeconds: 15, timeoutSeconds: 5 }
readinessProbe: { httpGet: { path: /readyz, port: metrics }, periodSeconds: 10, timeoutSeconds: 15 }
{{- end }}

{{- define "dynsvc.fence" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "dynsvc.podFence" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "dynsvc.annotations" -}}
prometheus.io/scrape: "true"
prometheus.io/port: "9464"
checksum/config: {{ .Values.config | toJson | sha256sum }}
{{- end }}
