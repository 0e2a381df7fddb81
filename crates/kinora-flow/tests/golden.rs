//! Schedules and solvers beside those who published them: tables to the bit, trajectories to
//! rounding.

use burn::tensor::{Device, Tensor, TensorData};
use kinora_flow::{Path, Run, Schedule, Solver, guide};
use kinora_golden::{File, rms};

// The references run in single precision: the rounding of a few dozen steps.
const ROUNDING: f64 = 1e-6;

/// What a name such as `unipc.shift3.n10.sigmas` speaks of.
fn parse(name: &str) -> Option<(&str, f64, usize, &str)> {
    let (solver, rest) = name.split_once(".shift")?;
    let (shift, rest) = rest.split_once(".n")?;
    let (steps, what) = rest.split_once('.')?;
    Some((solver, shift.parse().ok()?, steps.parse().ok()?, what))
}

fn shifted(steps: usize, shift: f64) -> Schedule {
    Schedule::Shift {
        steps,
        shift,
        terminal: None,
    }
}

fn floats<const D: usize>(shape: [usize; D], values: &[f64]) -> Tensor<D> {
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn tensor<const D: usize>(file: &File, name: &str) -> Tensor<D> {
    let shape = file.shape(name).try_into().expect(name);
    floats(shape, &file.f64(name))
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// Checks all tables of shifted levels in a file; gives their number.
fn check_tables(file: &File, solver: impl Fn(&str) -> Solver) -> usize {
    let mut tables = 0;
    for name in file.names() {
        let Some((kind, shift, steps, what)) = parse(&name) else {
            continue;
        };
        let points = solver(kind).points(&shifted(steps, shift), 0);
        let got = match what {
            "sigmas" => points.sigmas,
            "timesteps" => points.timesteps,
            _ => continue,
        };
        assert_eq!(got, file.f64(&name), "{name}");
        tables += 1;
    }
    tables
}

/// Follows the toy flow of the references through all trajectories in a file; gives their number and
/// the largest error.
fn check_trajectories(file: &File, start: &File, solver: impl Fn(&str) -> Solver) -> (usize, f64) {
    let (mut count, mut worst) = (0, 0.0_f64);
    for name in file.names() {
        let Some((kind, shift, steps, "trajectory")) = parse(&name) else {
            continue;
        };
        let mut run = Run::new(solver(kind), &shifted(steps, shift), 0);
        let mut x: Tensor<3> = tensor(start, "x_init");
        let mut trajectory = vec![];
        while let Some(time) = run.time() {
            // The toy is a velocity of noise minus data.
            let toy = x.clone().sin() * 0.7 + (x.clone() * 0.3).cos() * (1.0 - time);
            x = run.step(x, -toy);
            trajectory.extend(values(x.clone()));
        }
        let error = rms(&trajectory, &file.f64(&name));
        assert!(error < ROUNDING, "{name}: {error:e}");
        worst = worst.max(error);
        count += 1;
    }
    (count, worst)
}

fn of_diffusers(kind: &str) -> Solver {
    match kind {
        "euler" => Solver::EulerDiffusers {},
        "unipc" => Solver::Unipc {},
        _ => panic!("a reference for an unknown solver {kind}"),
    }
}

fn of_wan(kind: &str) -> Solver {
    match kind {
        "unipc" => Solver::UnipcWan {},
        "dpmpp" => Solver::DpmppWan {},
        _ => panic!("a reference for an unknown solver {kind}"),
    }
}

#[test]
fn tables_are_those_of_diffusers() {
    let Some(tables) =
        kinora_golden::set("schedulers").and_then(|set| set.file("tables.safetensors"))
    else {
        return;
    };
    assert!(check_tables(&tables, of_diffusers) > 0);

    let (mut dynamic, mut quadratic) = (0, 0);
    for name in tables.names() {
        let want = tables.f64(&name);
        if let Some(rest) = name.strip_prefix("euler.dynamic_mu") {
            let (mu, rest) = rest.split_once(".n").unwrap();
            let (steps, what) = rest.split_once('.').unwrap();
            let schedule = Schedule::DynamicShift {
                steps: steps.parse().unwrap(),
                positions: [256, 4096],
                mu: [mu.parse().unwrap(), 4.0],
                terminal: None,
            };
            let points = Solver::EulerDiffusers {}.points(&schedule, 256);
            let got = match what {
                "sigmas" => points.sigmas,
                _ => points.timesteps,
            };
            assert_eq!(got, want, "{name}");
            dynamic += 1;
        }
        if let Some(rest) = name.strip_prefix("linear_quadratic.n") {
            let steps = rest.strip_suffix(".sigmas").unwrap().parse().unwrap();
            let schedule = Schedule::LinearQuadratic {
                steps,
                threshold: 0.025,
            };
            let got = Solver::Euler {}.points(&schedule, 0).sigmas;
            assert_eq!(want.len(), steps, "{name}");
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-15, "{name}: {got} {want}");
            }
            quadratic += 1;
        }
    }
    assert!(dynamic > 0 && quadratic > 0);
}

#[test]
fn trajectories_are_those_of_diffusers() {
    let Some(file) =
        kinora_golden::set("schedulers").and_then(|set| set.file("trajectories.safetensors"))
    else {
        return;
    };
    let (count, worst) = check_trajectories(&file, &file, of_diffusers);
    assert!(count > 0);
    eprintln!("diffusers: {count} trajectories, relative RMS up to {worst:.1e}");
}

#[test]
fn tables_and_trajectories_are_those_of_wan() {
    let Some(set) = kinora_golden::set("schedulers") else {
        return;
    };
    // These are not among the copies, and lie in a folder without a description of its own.
    let (Some(file), Some(start)) = (
        set.file("../wan_solvers/flow_solvers.safetensors"),
        set.file("trajectories.safetensors"),
    ) else {
        return;
    };
    assert!(check_tables(&file, of_wan) > 0);
    let (count, worst) = check_trajectories(&file, &start, of_wan);
    assert!(count > 0);
    eprintln!("Wan: {count} trajectories, relative RMS up to {worst:.1e}");
}

#[test]
fn the_path_is_that_of_diffusers_and_of_movie_gen() {
    let Some(set) = kinora_golden::set("schedulers") else {
        return;
    };
    let wide = |x: Tensor<2>| {
        let [b, n] = x.dims();
        x.reshape([b, n, 1, 1, 1])
    };
    if let Some(file) = set.file("movie_gen_path.safetensors") {
        let [data, noise] = ["x1_data", "x0_noise"].map(|name| wide(tensor(&file, name)));
        let time = tensor::<2>(&file, "t").reshape([-1]);
        let path = Path::default();
        let point = values(path.at(data.clone(), noise.clone(), time));
        assert!(rms(&point, &file.f64("x_t")) < 2e-7);
        let velocity = values(path.velocity(data, noise));
        assert!(rms(&velocity, &file.f64("v")) < 2e-7);
    }
    if let Some(file) = set.file("trajectories.safetensors") {
        let [data, noise] = ["scale_noise.x0", "scale_noise.noise"].map(|name| {
            let x: Tensor<3> = tensor(&file, name);
            let [b, n, m] = x.dims();
            wide(x.reshape([b, n * m]))
        });
        let times: Vec<f64> = file
            .f64("scale_noise.timesteps")
            .iter()
            .map(|t| 1.0 - t / 1000.0)
            .collect();
        let time = floats([times.len()], &times);
        let point = values(Path { sigma_min: 0.0 }.at(data, noise, time));
        assert!(rms(&point, &file.f64("scale_noise.out")) < 2e-7);
    }
}

#[test]
fn the_pipeline_of_diffusers_is_followed_step_by_step() {
    let Some(set) = kinora_golden::set("pipeline") else {
        return;
    };
    let config = set.config();
    let scale = config["guidance_scale"].as_f64().unwrap();
    let steps = config["steps"].as_u64().unwrap() as usize;
    for case in ["euler_shift3", "unipc_shift3", "unipc_shift5"] {
        let Some(file) = set.file(&format!("{case}.safetensors")) else {
            continue;
        };
        let (kind, shift) = case.split_once("_shift").unwrap();
        let solver = of_diffusers(kind);
        let schedule = shifted(steps, shift.parse().unwrap());
        let points = solver.points(&schedule, 0);
        assert_eq!(points.sigmas, file.f64("sigmas"), "{case}");
        assert_eq!(points.timesteps, file.f64("timesteps"), "{case}");

        let mut run = Run::new(solver, &schedule, 0);
        let mut x: Tensor<5> = tensor(&file, "latents_init");
        let [with, without, latents] =
            ["cond", "uncond", "latents"].map(|name| tensor::<6>(&file, name));
        let mut worst = 0.0_f64;
        for step in 0..steps {
            let at = |all: &Tensor<6>| all.clone().narrow(0, step, 1).squeeze_dim::<5>(0);
            // Predictions of the reference are noise minus data.
            let velocity = guide(-at(&with), -at(&without), scale);
            x = run.step(x, velocity);
            let error = rms(&values(x.clone()), &values(at(&latents)));
            assert!(error < ROUNDING, "{case}, step {step}: {error:e}");
            worst = worst.max(error);
        }
        assert_eq!(run.time(), None);
        eprintln!("{case}: latents' relative RMS up to {worst:.1e}");
    }
}
