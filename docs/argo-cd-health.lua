-- Health of a DnsTier for Argo CD: the key resource.customizations.health.dnstier.io_DnsTier of argocd-cm.
local status = obj.status
if status == nil or status.conditions == nil then
  return { status = "Progressing", message = "No operator has seen the tier yet." }
end
if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "The operator has not looked at the newest spec yet." }
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end

-- The first condition that has this status decides.
local rules = {
  { "Stalled", "True", "Degraded" },
  { "Reconciling", "True", "Progressing" },
  { "RolledOut", "Unknown", "Progressing" },
  { "RolledOut", "False", "Progressing" },
  { "Ready", "Unknown", "Progressing" },
  { "Ready", "False", "Degraded" },
  { "Degraded", "True", "Degraded" },
}
for _, rule in ipairs(rules) do
  local condition = conditions[rule[1]]
  if condition ~= nil and condition.status == rule[2] then
    local health = rule[3]
    if condition.type == "Reconciling" and condition.reason == "Paused" then
      health = "Suspended"
    end
    return { status = health, message = condition.reason .. ": " .. condition.message }
  end
end
if conditions.Ready == nil then
  return { status = "Progressing", message = "The tier has no condition Ready yet." }
end
return { status = "Healthy", message = conditions.Ready.message }
