//! The whole transformer: latents, time and text to a velocity.

use super::{Block, MovieGenConfig, TextTokens, Texts};
use burn::module::Module;
use burn::tensor::Tensor;
use kinora_mesh::Axis;
use kinora_nn::{
    FactorisedPositions, Linear, LinearConfig, Modulation, Modulator, RmsNorm, Sequence,
    TimeEmbedding,
};
use kinora_shard::{Cx, Stack};

/// The Movie Gen video transformer.
#[derive(Module, Debug)]
pub struct MovieGen {
    patch: Linear,
    positions: FactorisedPositions,
    time: TimeEmbedding,
    modulator: Modulator,
    texts: Texts,
    blocks: Stack<Block>,
    modulation: Modulation,
    norm: RmsNorm,
    head: Linear,
    sequence: Sequence,
    #[module(skip)]
    config: MovieGenConfig,
}

impl MovieGen {
    /// A model with initial weights keyed by (seed, path).
    pub fn new(cx: &Cx, config: &MovieGenConfig) -> Self {
        let width = Axis::Embed.of(config.dim);
        let token = Axis::Channel.of(config.patch_len());
        let grid = config.grid(config.max_latent);
        Self {
            patch: LinearConfig::new(token, width)
                .with_bias()
                .init(&cx.at("patch")),
            positions: FactorisedPositions::new(
                &cx.at("positions"),
                grid,
                width,
                config.position_scale,
            ),
            time: TimeEmbedding::new(&cx.at("time"), width),
            modulator: Modulator::new(&cx.at("modulator"), width),
            texts: Texts::new(&cx.at("texts"), config),
            blocks: Stack::new(&cx.at("blocks"), config.layers, |cx| Block::new(cx, config)),
            modulation: Modulation::new(&cx.at("modulation"), width),
            norm: RmsNorm::new(&cx.at("norm"), width),
            // Silent at first, so that training starts at the mean of the data.
            head: LinearConfig::new(width, token)
                .with_bias()
                .scaled(0.0)
                .init(&cx.at("head")),
            sequence: Sequence::new(cx),
            config: config.clone(),
        }
    }

    /// The sizes.
    pub fn config(&self) -> &MovieGenConfig {
        &self.config
    }

    /// Latents `[B, C, T, H, W]` at times `[B]` in 0..=1 to velocities of the latents' shape. Images
    /// are videos of one frame.
    ///
    /// # Panics
    /// If the latent's sides are not multiples of the patch, or exceed `config.max_latent`.
    pub fn forward(&self, latent: Tensor<5>, time: Tensor<1>, texts: Vec<TextTokens>) -> Tensor<5> {
        let [b, channels, t, h, w] = latent.dims();
        assert_eq!(time.dims(), [b], "one time for each latent");
        for text in &texts {
            assert_eq!(text.embedding.dims()[0], b, "one text for each latent");
        }
        assert_eq!(
            channels, self.config.channels,
            "latents have {channels} channels"
        );
        let grid = self.config.grid([t, h, w]);
        let tokens = self.patchify(latent); // [B, S, C * pt * ph * pw]
        let pos = self.positions.forward(grid);
        let text = self.texts.forward(texts);
        let time = self.modulator.forward(self.time.forward(time)); // [B, 6, D]

        let x = self.patch.forward(self.sequence.split(tokens)); // [B, S, D]
        let x = self.blocks.forward(
            [x, time.clone(), text.tokens, pos.embedding],
            move |block, inputs| block.forward(inputs, &text.mask, pos.tokens),
        );
        let [last, _] = self.modulation.forward(time);
        let x = self.head.forward(last.shift_scale(self.norm.forward(x)));
        self.unpatchify(self.sequence.join(x, pos.tokens), [t, h, w])
    }

    /// `[B, C, T, H, W]` to `[B, t h w, C * pt * ph * pw]`, width fastest.
    fn patchify(&self, latent: Tensor<5>) -> Tensor<3> {
        let [b, c, t, h, w] = latent.dims();
        let [pt, ph, pw] = self.config.patch;
        let [nt, nh, nw] = self.config.grid([t, h, w]);
        assert_eq!(
            [nt * pt, nh * ph, nw * pw],
            [t, h, w],
            "a latent of whole patches"
        );
        latent
            .reshape([b, c, nt, pt, nh, ph, nw, pw])
            .permute([0, 2, 4, 6, 1, 3, 5, 7])
            .reshape([b, nt * nh * nw, c * pt * ph * pw])
    }

    /// The inverse of [`MovieGen::patchify`].
    fn unpatchify(&self, tokens: Tensor<3>, [t, h, w]: [usize; 3]) -> Tensor<5> {
        let b = tokens.dims()[0];
        let c = self.config.channels;
        let [pt, ph, pw] = self.config.patch;
        let [nt, nh, nw] = self.config.grid([t, h, w]);
        tokens
            .reshape([b, nt, nh, nw, c, pt, ph, pw])
            .permute([0, 4, 1, 5, 2, 6, 3, 7])
            .reshape([b, c, t, h, w])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::movie_gen::{Text, TextInput};
    use burn::tensor::{Device, Distribution, TensorData};

    fn config() -> MovieGenConfig {
        let text = |name: &str, width| TextInput {
            name: name.into(),
            width,
        };
        MovieGenConfig {
            layers: 1,
            dim: 8,
            ffn: 6,
            heads: 2,
            channels: 3,
            patch: [1, 2, 2],
            max_latent: [2, 4, 6],
            texts: vec![text("one", 5), text("two", 7)],
            ..MovieGenConfig::tiny()
        }
    }

    #[test]
    fn patches_are_taken_and_put_back_in_place() {
        let device = Device::flex();
        let model = MovieGen::new(&Cx::single(&device), &config());
        let latent = Tensor::<5>::random([2, 3, 2, 4, 6], Distribution::Default, &device);
        let tokens = model.patchify(latent.clone());
        assert_eq!(tokens.dims(), [2, 2 * 2 * 3, 3 * 4]);
        // Token 1 is the second patch of the first row: its first channel starts with column 2.
        let first = latent.clone().slice([0..1, 0..1, 0..1, 0..1, 2..4]);
        let of_token = tokens.clone().slice([0..1, 1..2, 0..2]);
        assert_eq!(
            first.reshape([2]).into_data(),
            of_token.reshape([2]).into_data()
        );
        let back = model.unpatchify(tokens, [2, 4, 6]);
        assert_eq!(back.into_data(), latent.into_data());
    }

    /// Two encoders of unlike widths and lengths; what is masked has no say.
    #[test]
    fn texts_of_several_encoders_are_read_and_padding_is_not() {
        let device = Device::flex();
        let cx = Cx::single(&device);
        let model = MovieGen::new(&cx, &config());
        // The head is silent at first, so the tokens before it are compared.
        let text = |padding: f64| {
            let embedding = |l: usize, width: usize| {
                let mut values: Vec<f64> = (0..2 * l * width).map(|i| (i as f64).sin()).collect();
                for sample in 0..2 {
                    let end = (sample + 1) * l * width;
                    values[end - width..end].fill(padding);
                }
                let mask: Vec<bool> = (0..2 * l).map(|i| i % l < l - 1).collect();
                TextTokens {
                    embedding: Tensor::from_data(TensorData::new(values, [2, l, width]), &device),
                    mask: Tensor::from_data(TensorData::new(mask, [2, l]), &device),
                }
            };
            model.texts.forward(vec![embedding(3, 5), embedding(4, 7)])
        };
        let one = text(0.5);
        assert_eq!(one.tokens.dims(), [2, 7, 8]);
        let x = Tensor::<3>::random([2, 4, 8], Distribution::Default, &device);
        let time = Tensor::<3>::zeros([2, 6, 8], &device);
        let pos = model.positions.forward([1, 2, 2]);
        let run = |text: Text| {
            let embedding = pos.embedding.clone();
            let inputs = [x.clone(), time.clone(), text.tokens, embedding];
            let (mask, tokens) = (text.mask, pos.tokens);
            model.blocks.forward(inputs, move |block, inputs| {
                block.forward(inputs, &mask, tokens)
            })
        };
        let [a, b] = [run(one), run(text(-9.0))].map(Tensor::into_data);
        assert_eq!(a, b, "padding is attended to");
        let mut other = text(0.5);
        other.tokens = other.tokens * -1.0;
        assert_ne!(a, run(other).into_data(), "the text is not read");
    }

    #[test]
    #[should_panic(expected = "exceeds the position tables")]
    fn a_latent_beyond_the_position_tables_is_refused() {
        let model = MovieGen::new(&Cx::single(&Device::flex()), &config());
        model.positions.forward([3, 2, 3]);
    }
}
