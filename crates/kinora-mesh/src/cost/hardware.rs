//! A device and the links between devices, from a file.

use super::CostError;
use serde::{Deserialize, Serialize};

/// What a device can do. Rates are the data sheet's; efficiencies say what share of them kernels get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// The name that `--hardware` takes.
    pub name: String,
    /// Memory of one device, in GiB.
    pub memory_gib: f64,
    /// The share of it that a program can fill.
    pub usable: f64,
    /// Dense bf16 operations, in 10^12 a second.
    pub bf16_tflops: f64,
    /// f32 operations, in 10^12 a second.
    pub f32_tflops: f64,
    /// Device memory, in 10^9 bytes a second.
    pub memory_gbs: f64,
    /// Devices of one node.
    pub ranks_per_node: usize,
    /// Links within a node, in 10^9 bytes a second of one device in one direction.
    pub intra_gbs: f64,
    /// Links between nodes, in 10^9 bytes a second of one device in one direction.
    pub inter_gbs: f64,
    /// The link to the host, in 10^9 bytes a second in one direction.
    pub host_gbs: f64,
    /// One message within a node, in microseconds.
    pub intra_latency_us: f64,
    /// One message between nodes, in microseconds.
    pub inter_latency_us: f64,
    /// What kernels get of these rates.
    pub efficiency: Efficiency,
}

/// Shares of the rates, between 0 and 1: one table a device, the same for every model and plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Efficiency {
    /// Large matrix products.
    pub matmul: f64,
    /// Attention forward, by the device's best kernel.
    pub attention: f64,
    /// Attention backward, by the device's best kernel.
    pub attention_backward: f64,
    /// Attention forward, by a kernel of Ampere's instructions.
    pub ampere_attention: f64,
    /// Attention backward, by a kernel of Ampere's instructions.
    pub ampere_attention_backward: f64,
    /// Elementwise kernels, of the memory's rate.
    pub elementwise: f64,
    /// Collectives, of the links' rates.
    pub links: f64,
}

const FILES: [(&str, &str); 8] = [
    (
        "h100-sxm",
        include_str!("../../../../configs/hardware/h100-sxm.toml"),
    ),
    ("h20", include_str!("../../../../configs/hardware/h20.toml")),
    (
        "a100-80g",
        include_str!("../../../../configs/hardware/a100-80g.toml"),
    ),
    (
        "h200",
        include_str!("../../../../configs/hardware/h200.toml"),
    ),
    (
        "b200",
        include_str!("../../../../configs/hardware/b200.toml"),
    ),
    (
        "gb200",
        include_str!("../../../../configs/hardware/gb200.toml"),
    ),
    (
        "rtx-4090",
        include_str!("../../../../configs/hardware/rtx-4090.toml"),
    ),
    ("cpu", include_str!("../../../../configs/hardware/cpu.toml")),
];

impl Hardware {
    /// The names that [`Hardware::named`] knows.
    pub fn names() -> Vec<&'static str> {
        FILES.iter().map(|(name, _)| *name).collect()
    }

    /// A device of `configs/hardware`, as it was when this was built.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn named(name: &str) -> Result<Self, CostError> {
        match FILES.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Self::parse(text),
            None => Err(CostError::NoHardware {
                name: name.into(),
                known: Self::names().join(", "),
            }),
        }
    }

    /// A device from the text of a file.
    ///
    /// # Errors
    /// If the text is not a device, or a rate or share is out of range.
    pub fn parse(text: &str) -> Result<Self, CostError> {
        let hardware: Self = toml::from_str(text).map_err(|error| CostError::Hardware {
            why: error.to_string(),
        })?;
        hardware.check()?;
        Ok(hardware)
    }

    fn check(&self) -> Result<(), CostError> {
        let e = &self.efficiency;
        let shares = [
            ("usable", self.usable),
            ("efficiency.matmul", e.matmul),
            ("efficiency.attention", e.attention),
            ("efficiency.attention_backward", e.attention_backward),
            ("efficiency.ampere_attention", e.ampere_attention),
            (
                "efficiency.ampere_attention_backward",
                e.ampere_attention_backward,
            ),
            ("efficiency.elementwise", e.elementwise),
            ("efficiency.links", e.links),
        ];
        let rates = [
            ("memory_gib", self.memory_gib),
            ("bf16_tflops", self.bf16_tflops),
            ("f32_tflops", self.f32_tflops),
            ("memory_gbs", self.memory_gbs),
            ("ranks_per_node", self.ranks_per_node as f64),
            ("intra_gbs", self.intra_gbs),
            ("inter_gbs", self.inter_gbs),
            ("host_gbs", self.host_gbs),
        ];
        let latencies = [
            ("intra_latency_us", self.intra_latency_us),
            ("inter_latency_us", self.inter_latency_us),
        ];
        let bad = shares.iter().find(|(_, x)| !(*x > 0.0 && *x <= 1.0));
        let bad = bad.map(|x| (x, "a share above 0 and at most 1"));
        let small = rates.iter().find(|(_, x)| !(*x > 0.0 && x.is_finite()));
        let small = small.map(|x| (x, "a positive number"));
        let late = latencies
            .iter()
            .find(|(_, x)| !(*x >= 0.0 && x.is_finite()));
        let late = late.map(|x| (x, "a number of at least 0"));
        match bad.or(small).or(late) {
            Some((&(key, value), want)) => Err(CostError::Hardware {
                why: format!("{key} = {value}\n  help: use {want}"),
            }),
            None => Ok(()),
        }
    }

    /// Bytes that a program can fill.
    pub fn capacity(&self) -> f64 {
        self.memory_gib * self.usable * (1_u64 << 30) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_device_of_its_own_name() {
        for name in Hardware::names() {
            assert_eq!(Hardware::named(name).expect(name).name, name);
        }
    }

    #[test]
    fn a_mistake_in_a_file_is_named() {
        let text = FILES[0].1;
        let wrong = Hardware::parse(&text.replace("matmul =", "matmull =")).unwrap_err();
        assert!(wrong.to_string().contains("matmull"), "{wrong}");
        let wrong = Hardware::parse(&text.replace("usable = 0.", "usable = 1.")).unwrap_err();
        assert!(wrong.to_string().contains("usable = 1."), "{wrong}");
        let wrong = Hardware::named("h101").unwrap_err();
        assert!(wrong.to_string().contains("h100-sxm"), "{wrong}");
    }
}
