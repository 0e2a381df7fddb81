//! A configuration's model and mesh, small enough to be computed twice on any machine, and cut the same
//! way.

use kinora_mesh::{Mesh, MeshAxis};
use kinora_models::bytes::BytesConfig;
use kinora_models::movie_gen::{MovieGenConfig, TextInput};

/// The data axes at two at most: what holds for two copies holds for more. `cp`, `tp` and `cfg` stay.
pub fn shrink_mesh(mesh: Mesh) -> Mesh {
    Mesh {
        replicate: mesh.replicate.min(2),
        fsdp: mesh.fsdp.min(2),
        ..mesh
    }
}

/// The model with all its heads, but narrow ones; two layers; sizes that divide by nothing; and a text
/// encoder that is trained along, in place of those that are given.
pub fn shrink_model(
    video: &MovieGenConfig,
    text: Option<&BytesConfig>,
    mesh: &Mesh,
) -> (MovieGenConfig, BytesConfig) {
    let ranks = mesh.span(&[MeshAxis::Cp, MeshAxis::Tp]);
    let head = 4;
    let text = BytesConfig {
        width: 2 * text.map_or(video.heads, |text| text.heads),
        layers: text.map_or(1, |text| text.layers.min(1)),
        heads: text.map_or(video.heads, |text| text.heads),
        ffn: 2 * mesh.tp + 21,
        windows: text.map_or(31, |text| text.windows.min(31)),
        max_words: 9,
    };
    // At least two tokens on each rank, of an odd number of frames, rows and columns.
    let frames = 5.max((2 * ranks).div_ceil(21) | 1);
    let grid = [frames, 7, 3];
    let video = MovieGenConfig {
        layers: video.layers.min(2),
        dim: head * video.heads,
        ffn: 2 * mesh.tp + 35,
        heads: video.heads,
        channels: video.channels.min(3),
        patch: video.patch.map(|side| side.min(2)),
        max_latent: [0, 1, 2].map(|i| grid[i] * video.patch[i].min(2)),
        position_scale: video.position_scale,
        texts: vec![TextInput {
            name: "bytes".into(),
            width: text.width,
        }],
    };
    (video, text)
}

/// Two latents of the shrunk model: the largest, of an odd number of tokens, and one of an even number.
pub fn latents(video: &MovieGenConfig) -> Vec<[usize; 4]> {
    let [t, h, w] = video.max_latent;
    let [_, ph, pw] = video.patch;
    vec![
        [video.channels, t, h, w],
        [video.channels, t, h - ph, w - pw],
    ]
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
            let (video, text) = shrink_model(&MovieGenConfig::movie_gen_30b(), None, &small);
            video.check().unwrap();
            assert_eq!(text.width % text.heads, 0);
            let tokens = latents(&video)
                .into_iter()
                .map(|[_, t, h, w]| video.grid([t, h, w]).iter().product::<usize>());
            let tokens: Vec<usize> = tokens.collect();
            assert!(tokens.iter().all(|&tokens| tokens >= cp * 8), "{tokens:?}");
            assert_eq!((tokens[0] % 2, tokens[1] % 2), (1, 0), "{tokens:?}");
        }
    }
}
