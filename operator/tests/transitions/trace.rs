//! Trace of a roll-out: the steps that its record went through.

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::common::objects::Objects;
use crate::transition::Behaviour;

/// Steps of roll-outs, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Trace(Vec<Value>);

impl Trace {
    /// Notes the record of a tier, where it is at another step than before.
    pub(crate) fn note(&mut self, world: &str, objects: &Objects) {
        let map = objects.get("ConfigMap", &format!("{world}-system"), &format!("dnstier-{world}-rollout"));
        let record = map.and_then(|map| serde_json::from_str::<Value>(map["data"]["record.json"].as_str()?).ok());
        let Some(record) = record else { return };
        match self.0.last_mut() {
            Some(last) if last["step"] == record["step"] && last["since"] == record["since"] => *last = record,
            _ => self.0.push(record),
        }
    }

    /// Returns the newest target.
    pub(crate) fn target(&self) -> &Value {
        self.0.last().map_or(&Value::Null, |record| &record["target"]["id"])
    }

    /// Checks that the steps were those that a field asks for.
    pub(crate) fn check(&self, behaviour: Behaviour) -> Result<()> {
        let at = |step: &'static str| self.0.iter().filter(move |record| record["step"] == step);
        match behaviour {
            Behaviour::Canaries(count) => {
                let canary = at("Canary").next_back().with_context(|| format!("no canaries: {self:?}"))?;
                let moved = canary["moved"].as_array().map_or(0, Vec::len);
                ensure!(moved == count, "{moved} nodes went first: {canary}");
            }
            Behaviour::Waves(count) => {
                let waves = at("Wave").count();
                ensure!(waves == count, "there were {waves} waves: {self:?}");
            }
            Behaviour::Soak(seconds) => {
                let since = |record: &Value| record["since"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
                let index = self.0.iter().position(|record| record["step"] == "Canary").context("no canaries")?;
                let [start, end] = [self.0.get(index), self.0.get(index + 1)].map(|record| record.and_then(since));
                let took = end.context("no end")?.duration_since(start.context("no begin")?).as_secs();
                // Times of a record are whole seconds.
                ensure!(took + 1 >= seconds, "the first nodes were watched for {took} s");
                ensure!(took < 3 * seconds, "the first nodes were watched for {took} s");
            }
        }
        Ok(())
    }
}
