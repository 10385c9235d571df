{{/* The name of the release, with the chart's name in it. */}}
{{- define "dnstier.name" -}}
{{- if contains "dnstier" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-dnstier{{ end }}
{{- end }}

{{- define "dnstier.operator" -}}
{{ include "dnstier.name" . | trunc 40 | trimSuffix "-" }}-operator
{{- end }}

{{- define "dnstier.selector" -}}
app.kubernetes.io/name: dnstier
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "dnstier.labels" -}}
{{ include "dnstier.selector" . }}
app.kubernetes.io/part-of: dnstier
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image without tag and digest: .Values.image.operator. */}}
{{- define "dnstier.repository" -}}
{{- with .registry }}{{ . }}/{{ end }}{{ .repository }}
{{- end }}

{{/* The reference of an image: (list $ .Values.image.operator). */}}
{{- define "dnstier.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 -}}
{{- include "dnstier.repository" $image -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* A list of strings in CEL, without slashes at their ends. The values' schema admits no quotation marks. */}}
{{- define "dnstier.celStrings" -}}
{{- $quoted := list }}{{ range . }}{{ $quoted = append $quoted (trimSuffix "/" . | squote) }}{{ end -}}
[{{ join ", " $quoted }}]
{{- end }}

{{/* What Pod Security at its level `restricted` asks of a pod and of its containers. */}}
{{- define "dnstier.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "dnstier.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Binds a Role of the operator to its account: (list $ "suffix of the Role's name" "namespace"). */}}
{{- define "dnstier.roleBinding" -}}
{{- $root := index . 0 -}}
{{- $role := printf "%s-%s" (include "dnstier.operator" $root) (index . 1) -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $role }}
  namespace: {{ index . 2 }}
  labels: {{- include "dnstier.labels" $root | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $role }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "dnstier.operator" $root }}, namespace: {{ $root.Release.Namespace }}}
{{- end }}

{{/*
A switch that may be missing in values, which `helm upgrade --reuse-values` takes from an older chart:
(list $ "resourceQuota" true) is .Values.resourceQuota.enabled, or true. Empty when it is off.
*/}}
{{- define "dnstier.isEnabled" -}}
{{- $values := index (index . 0).Values (index . 1) | default dict -}}
{{- $enabled := index . 2 }}{{ if hasKey $values "enabled" }}{{ $enabled = $values.enabled }}{{ end -}}
{{- if $enabled }}true{{ end }}
{{- end }}

{{/* The number of replicas, which values of an older chart lack. */}}
{{- define "dnstier.replicas" -}}
{{- if kindIs "invalid" .Values.operator.replicas }}3{{ else }}{{ int .Values.operator.replicas }}{{ end }}
{{- end }}

{{/* The namespaces of pods, each once. */}}
{{- define "dnstier.podNamespaces" -}}
{{ list .Release.Namespace .Values.nodeNamespace.name | uniq | toJson }}
{{- end }}

{{/* The architectures of the images; none: every one. */}}
{{- define "dnstier.architectures" -}}
{{- $architectures := list "amd64" }}
{{- if hasKey .Values.image "architectures" }}{{ $architectures = .Values.image.architectures }}{{ end -}}
{{ toJson $architectures }}
{{- end }}

{{/* The affinity to nodes that can run the images. */}}
{{- define "dnstier.affinity" -}}
{{- with include "dnstier.architectures" . | fromJsonArray }}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - {key: kubernetes.io/arch, operator: In, values: {{ toJson . }}}
{{- end }}
{{- end }}
