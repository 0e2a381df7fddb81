//! Models whose weights are read, each rank only its part, instead of drawn.

use crate::Cx;
use kinora_ckpt::{CkptError, TensorSource};
use std::sync::{Arc, PoisonError};

/// What [`load`] reads from; names are relative to the model.
pub type Source = Arc<dyn TensorSource + Send + Sync>;

/// Builds a model of weights that are read. `open` gets the path, relative to the builder's, and the
/// whole shape of each parameter, and gives a source that has them all under these names. No rank
/// reads or holds more than its part.
///
/// # Errors
/// Those of `open`, and the first of reading.
pub fn load<M>(
    cx: &Cx,
    open: impl FnOnce(&[(String, Vec<usize>)]) -> Result<Source, CkptError>,
    build: impl Fn(&Cx) -> M,
) -> Result<M, CkptError> {
    let dry = cx.looking();
    drop(build(&dry));
    let within = |path: &str| {
        let name = path.strip_prefix(cx.path()).unwrap_or(path);
        name.strip_prefix('.').unwrap_or(name).to_owned()
    };
    let table = dry.table();
    let own = match table.frozen() {
        // Beside frozen weights, what is trained is adapters, which are no part of the model.
        [] => table.specs(),
        frozen => frozen,
    };
    let specs = own.iter();
    let params: Vec<_> = specs
        .map(|spec| (within(&spec.path), spec.layout.shape.clone()))
        .collect();
    drop(table);
    let source = open(&params)?;
    for (name, shape) in &params {
        source.expect_shape(name, shape)?;
    }
    let (cx, failed) = cx.reading(source);
    let model = build(&cx);
    let failed = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    failed.map_or(Ok(model), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;
    use burn::tensor::Device;
    use kinora_ckpt::Dtype;
    use kinora_mesh::Axis;

    struct Counting;

    impl TensorSource for Counting {
        fn names(&self) -> Vec<&str> {
            vec!["a.x", "y"]
        }

        fn shape(&self, name: &str) -> Result<&[usize], CkptError> {
            Ok(if name == "y" { &[3] } else { &[2, 2] })
        }

        fn dtype(&self, _: &str) -> Result<Dtype, CkptError> {
            Ok(Dtype::F32)
        }

        fn read(&self, name: &str, _: &[usize], extent: &[usize]) -> Result<Vec<u8>, CkptError> {
            if name == "y" {
                let (path, hint) = ("elsewhere".into(), "none".into());
                let name = name.into();
                return Err(CkptError::Missing { name, path, hint });
            }
            let n: usize = extent.iter().product();
            Ok((0..n).flat_map(|i| (i as f32).to_le_bytes()).collect())
        }
    }

    #[test]
    fn values_are_read_by_the_path_within_the_model_and_failures_are_told() {
        let cx = Cx::single(&Device::flex()).at("text");
        let wide = Axis::Channel.of(2);
        let x = |cx: &Cx| cx.at("a").param("x", [wide, wide], Init::Constant(9.0));
        let read = load(&cx, |_| Ok(Arc::new(Counting) as Source), x).unwrap();
        let values: Vec<f32> = read.val().into_data().iter().collect();
        assert_eq!(values, [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(cx.table().specs()[0].path, "text.a.x");

        let y = |cx: &Cx| cx.param("y", [Axis::Channel.of(3)], Init::Constant(9.0));
        let error = load(&cx, |_| Ok(Arc::new(Counting) as Source), y).unwrap_err();
        assert!(matches!(error, CkptError::Missing { .. }), "{error}");
        let z = |cx: &Cx| cx.param("y", [wide], Init::Constant(9.0));
        let error = load(&cx, |_| Ok(Arc::new(Counting) as Source), z).unwrap_err();
        assert!(matches!(error, CkptError::Shape { .. }), "{error}");
    }
}
