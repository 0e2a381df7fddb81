//! A configuration's model and mesh, small enough to be computed twice on any machine, and cut the same
//! way.

use kinora_mesh::{Mesh, MeshAxis};
use kinora_models::VideoConfig;
use kinora_models::bytes::BytesConfig;
use kinora_models::movie_gen::{MovieGenConfig, TextInput};
use kinora_models::wan::WanConfig;

/// The data axes at two at most: what holds for two copies holds for more. `cp`, `tp` and `cfg` stay.
pub fn shrink_mesh(mesh: Mesh) -> Mesh {
    Mesh {
        replicate: mesh.replicate.min(2),
        fsdp: mesh.fsdp.min(2),
        ..mesh
    }
}

/// A model small enough, and what it is given.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The transformer.
    pub video: VideoConfig,
    /// A text encoder that is trained along, in place of those that are given.
    pub text: BytesConfig,
    /// Two latents `[C, T, H, W]`: the largest, of an odd number of tokens, and one of an even number.
    pub latents: Vec<[usize; 4]>,
}

/// The model with all its heads, but narrow ones; two layers; sizes that divide by nothing.
pub fn shrink_model(video: &VideoConfig, text: Option<&BytesConfig>, mesh: &Mesh) -> Shrunk {
    let ranks = mesh.span(&[MeshAxis::Cp, MeshAxis::Tp]);
    let heads = match video {
        VideoConfig::MovieGen(config) => config.heads,
        VideoConfig::Wan(config) => config.heads,
    };
    let text = BytesConfig {
        width: 2 * text.map_or(heads, |text| text.heads),
        layers: text.map_or(1, |text| text.layers.min(1)),
        heads: text.map_or(heads, |text| text.heads),
        ffn: 2 * mesh.tp + 21,
        windows: text.map_or(31, |text| text.windows.min(31)),
        max_words: 9,
    };
    // At least two tokens on each rank, of an odd number of frames, rows and columns.
    let frames = 5.max((2 * ranks).div_ceil(21) | 1);
    let patch = video.patch().map(|side| side.min(2));
    let [t, h, w] = [frames * patch[0], 7 * patch[1], 3 * patch[2]];
    let channels = video.channels().min(3);
    let latents = vec![
        [channels, t, h, w],
        [channels, t, h - patch[1], w - patch[2]],
    ];
    let video = match video {
        VideoConfig::MovieGen(video) => VideoConfig::MovieGen(MovieGenConfig {
            layers: video.layers.min(2),
            dim: 4 * heads,
            ffn: 2 * mesh.tp + 35,
            heads,
            channels,
            patch,
            max_latent: [t, h, w],
            position_scale: video.position_scale,
            texts: vec![TextInput {
                name: "bytes".into(),
                width: text.width,
            }],
        }),
        // Of a pair one, without images, which every rank reads whole.
        VideoConfig::Wan(video) => VideoConfig::Wan(WanConfig {
            layers: video.layers.min(2),
            // Room for the rotations of frames, rows and columns.
            dim: 12 * heads,
            ffn: 2 * mesh.tp + 35,
            heads,
            channels,
            out_channels: channels,
            patch,
            text: text.width,
            text_tokens: 11,
            sinusoids: 16,
            image: None,
            boundary: None,
            ..video.clone()
        }),
    };
    Shrunk {
        video,
        text,
        latents,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shrunk_still_fits_its_plan() {
        for cp in [1, 2, 16] {
            let mesh = Mesh {
                replicate: 64,
                fsdp: 12,
                cp,
                tp: 8,
                ..Mesh::default()
            };
            let small = shrink_mesh(mesh);
            assert_eq!((small.ranks(), small.cp, small.tp), (4 * cp * 8, cp, 8));
            for name in VideoConfig::presets() {
                let video = VideoConfig::preset(name).unwrap();
                let shrunk = shrink_model(&video, None, &small);
                shrunk.video.check().unwrap();
                assert_eq!(shrunk.text.width % shrunk.text.heads, 0);
                let latents = shrunk.latents.into_iter();
                let grids = latents.map(|[_, t, h, w]| shrunk.video.grid([t, h, w]));
                let tokens: Vec<usize> = grids.map(|grid| grid.iter().product()).collect();
                assert!(
                    tokens.iter().all(|&tokens| tokens >= cp * 8),
                    "{name}: {tokens:?}"
                );
                assert_eq!((tokens[0] % 2, tokens[1] % 2), (1, 0), "{name}: {tokens:?}");
            }
        }
    }
}
