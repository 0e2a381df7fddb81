//! What the parameters are called in other people's files.
//!
//! Convolutions lie there as `[to, from, frames, rows, columns]`, or without frames, and the attention's
//! three linear layers as one convolution of a single pixel.

use super::WanVaeConfig;
use kinora_ckpt::Foreign;

/// The names of diffusers' `AutoencoderKLWan`.
pub fn diffusers(config: &WanVaeConfig, path: &str, shape: &[usize]) -> Foreign {
    let names = Names {
        halves: ["down_blocks", "up_blocks"],
        middle: [
            "mid_block.resnets.0",
            "mid_block.attentions.0",
            "mid_block.resnets.1",
        ],
        residual: [
            "norm1.gamma",
            "conv1",
            "norm2.gamma",
            "conv2",
            "conv_shortcut",
        ],
        ends: ["conv_in", "norm_out.gamma", "conv_out"],
        latent: ["quant_conv", "post_quant_conv"],
    };
    names.find(config, path, shape, |config, half, stage, part| {
        let (encoder, residual) = (half == "encoder", config.shortcuts);
        match (encoder, residual, part) {
            // Wan 2.1's encoder counts blocks and steps alike.
            (true, false, Part::Block(block)) => flat(config.blocks, stage, block),
            (true, false, Part::Step) => flat(config.blocks, stage, config.blocks),
            (_, _, Part::Block(block)) => format!("{stage}.resnets.{block}"),
            (false, false, Part::Step) => format!("{stage}.upsamplers.0"),
            (true, true, Part::Step) => format!("{stage}.downsampler"),
            (false, true, Part::Step) => format!("{stage}.upsampler"),
        }
    })
}

/// The names of Wan's own `vae.py` and `vae2_2.py`.
pub fn original(config: &WanVaeConfig, path: &str, shape: &[usize]) -> Foreign {
    let names = Names {
        halves: ["downsamples", "upsamples"],
        middle: ["middle.0", "middle.1", "middle.2"],
        residual: [
            "residual.0.gamma",
            "residual.2",
            "residual.3.gamma",
            "residual.6",
            "shortcut",
        ],
        ends: ["conv1", "head.0.gamma", "head.2"],
        latent: ["conv1", "conv2"],
    };
    names.find(config, path, shape, |config, half, stage, part| {
        let encoder = half == "encoder";
        let blocks = if encoder {
            config.blocks
        } else {
            config.blocks + 1
        };
        let at = match part {
            Part::Block(block) => block,
            Part::Step => blocks,
        };
        if !config.shortcuts {
            return flat(blocks, stage, at);
        }
        let inner = if encoder { "downsamples" } else { "upsamples" };
        format!("{stage}.{inner}.{at}")
    })
}

/// A part of a stage.
#[derive(Clone, Copy)]
enum Part {
    Block(usize),
    Step,
}

/// The place of a part where those of all stages are in one list; the last stage has no step.
fn flat(blocks: usize, stage: usize, at: usize) -> String {
    (stage * (blocks + 1) + at).to_string()
}

/// The words of a layout.
struct Names {
    halves: [&'static str; 2],
    middle: [&'static str; 3],
    residual: [&'static str; 5],
    ends: [&'static str; 3],
    latent: [&'static str; 2],
}

impl Names {
    fn find(
        &self,
        config: &WanVaeConfig,
        path: &str,
        shape: &[usize],
        place: impl Fn(&WanVaeConfig, &str, usize, Part) -> String,
    ) -> Foreign {
        let words: Vec<&str> = path.split('.').collect();
        let number = |at: usize| -> usize {
            let word = words[at].parse();
            word.unwrap_or_else(|_| panic!("{path} has no number at its place {at}"))
        };
        match *words.as_slice() {
            ["to_moments", what] => tensor(self.latent[0], what, shape, [1; 3]),
            ["from_latent", what] => tensor(self.latent[1], what, shape, [1; 3]),
            [half, "conv_in", what] => {
                tensor(&format!("{half}.{}", self.ends[0]), what, shape, [3; 3])
            }
            [half, "norm_out", _] => norm(format!("{half}.{}", self.ends[1]), shape, 3),
            [half, "conv_out", what] => {
                tensor(&format!("{half}.{}", self.ends[2]), what, shape, [3; 3])
            }
            [half, "middle", "norm", _] => {
                norm(format!("{half}.{}.norm.gamma", self.middle[1]), shape, 2)
            }
            [half, "middle", "attention", layer, what] => {
                attention(&format!("{half}.{}", self.middle[1]), layer, what, shape)
            }
            [half, "middle", block, layer, what] => {
                let block = self.middle[if block == "first" { 0 } else { 2 }];
                self.residual(&format!("{half}.{block}"), layer, what, shape)
            }
            [half, "stages", _, "blocks", _, layer, what] => {
                let at = place(config, half, number(2), Part::Block(number(4)));
                let list = self.halves[usize::from(half == "decoder")];
                self.residual(&format!("{half}.{list}.{at}"), layer, what, shape)
            }
            [half, "stages", _, "down" | "up", conv, what] => {
                let at = place(config, half, number(2), Part::Step);
                let list = self.halves[usize::from(half == "decoder")];
                step(&format!("{half}.{list}.{at}"), conv, what, shape)
            }
            _ => panic!("{path} is no parameter of Wan's autoencoder"),
        }
    }

    fn residual(&self, block: &str, layer: &str, what: &str, shape: &[usize]) -> Foreign {
        let [norm1, conv1, norm2, conv2, shortcut] =
            self.residual.map(|name| format!("{block}.{name}"));
        match layer {
            "norm1" => norm(norm1, shape, 3),
            "conv1" => tensor(&conv1, what, shape, [3; 3]),
            "norm2" => norm(norm2, shape, 3),
            "conv2" => tensor(&conv2, what, shape, [3; 3]),
            "shortcut" => tensor(&shortcut, what, shape, [1; 3]),
            _ => panic!("{layer} is no layer of a residual block"),
        }
    }
}

/// The weight of a norm: `[C]` here, `[C, 1, ..]` there, with so many ones.
fn norm(name: String, shape: &[usize], ones: usize) -> Foreign {
    let theirs = [shape, &[1; 3][..ones]].concat();
    Foreign::same(name, shape).shaped(&theirs)
}

/// The weight or the bias of a convolution.
fn tensor(layer: &str, what: &str, shape: &[usize], kernel: [usize; 3]) -> Foreign {
    convolution(layer, what, shape, &kernel)
}

fn convolution(layer: &str, what: &str, shape: &[usize], kernel: &[usize]) -> Foreign {
    let name = format!("{layer}.{what}");
    let &[from, to] = shape else {
        return Foreign::same(name, shape);
    };
    let channels = from / kernel.iter().product::<usize>();
    Foreign::linear(name, shape).shaped(&[&[to, channels], kernel].concat())
}

/// A step down or up: in space, each frame by itself, and in time.
fn step(layer: &str, conv: &str, what: &str, shape: &[usize]) -> Foreign {
    match conv {
        "space" => convolution(&format!("{layer}.resample.1"), what, shape, &[3, 3]),
        _ => convolution(&format!("{layer}.time_conv"), what, shape, &[3, 1, 1]),
    }
}

/// A linear layer of the attention: the first three are a third each of one there.
fn attention(block: &str, layer: &str, what: &str, shape: &[usize]) -> Foreign {
    let third = match layer {
        "query" => 0,
        "key" => 1,
        "value" => 2,
        _ => return convolution(&format!("{block}.proj"), what, shape, &[1, 1]),
    };
    let name = format!("{block}.to_qkv.{what}");
    let width = shape[shape.len() - 1];
    let (first, of) = (third * width, 3 * width);
    match shape {
        [from, _] => Foreign::linear(name, shape)
            .rows(first, of)
            .shaped(&[of, *from, 1, 1]),
        _ => Foreign::same(name, shape).rows(first, of),
    }
}
