//! What all solvers and schedules promise, whoever published them.

use burn::tensor::{DType, Device, Tensor, TensorData};
use kinora_flow::{Run, Schedule, ScheduleError, Solver};

const SOLVERS: [Solver; 7] = [
    Solver::Euler {},
    Solver::EulerDiffusers {},
    Solver::Heun {},
    Solver::Midpoint {},
    Solver::Unipc {},
    Solver::UnipcWan {},
    Solver::DpmppWan {},
];

fn schedules(steps: usize) -> [Schedule; 4] {
    [
        Schedule::Linear { steps },
        shift(steps, 5.0, None),
        Schedule::DynamicShift {
            steps,
            positions: [1024, 4096],
            mu: [0.95, 2.05],
            terminal: Some(0.1),
        },
        Schedule::LinearQuadratic {
            steps,
            threshold: 0.025,
        },
    ]
}

fn shift(steps: usize, shift: f64, terminal: Option<f64>) -> Schedule {
    Schedule::Shift {
        steps,
        shift,
        terminal,
    }
}

fn scalar(x: f64) -> Tensor<1> {
    Tensor::from_data(TensorData::from([x]), (&Device::flex(), DType::F64))
}

fn value(x: Tensor<1>) -> f64 {
    x.into_data().iter::<f64>().next().unwrap()
}

/// Follows an autonomous flow in double precision; gives the end and the number of passes.
fn follow(solver: Solver, schedule: &Schedule, x: f64, v: impl Fn(f64) -> f64) -> (f64, usize) {
    let mut run = Run::new(solver, schedule, 2048);
    let mut x = scalar(x);
    let mut passes = 0;
    while run.time().is_some() {
        let velocity = scalar(v(value(x.clone())));
        x = run.step(x, velocity);
        passes += 1;
    }
    assert_eq!(run.done(), schedule.steps());
    (value(x), passes)
}

#[test]
fn every_solver_goes_down_every_schedule() {
    for steps in 1..=60 {
        for (solver, schedule) in SOLVERS
            .iter()
            .flat_map(|solver| schedules(steps).map(|schedule| (solver, schedule)))
        {
            solver.check(&schedule).unwrap();
            let points = solver.points(&schedule, 2048);
            assert_eq!(points.sigmas.len(), steps + 1);
            assert_eq!(points.timesteps.len(), steps);
            // Wan's first level is 0.999, whose distance from 1 a terminal level stretches: to 1.14e-3
            // for two steps.
            let first = points.sigmas[0];
            assert!(
                (first - 1.0).abs() < 1.2e-3,
                "{solver:?} {schedule:?}: {first}"
            );
            assert_eq!(points.sigmas[steps], 0.0);
            let times = points.times();
            for (i, time) in times.iter().enumerate() {
                let off = (time - (1.0 - points.sigmas[i])).abs();
                assert!(off < 1.001e-3, "{solver:?} {schedule:?} at {i}: {off}");
            }
            // Integers may repeat where steps are smaller than a thousandth.
            assert!(times.windows(2).all(|w| w[1] >= w[0]));
        }
    }
}

#[test]
fn even_steps_of_movie_gen_are_even() {
    let points = Solver::default().points(&Schedule::Linear { steps: 8 }, 1);
    let times: Vec<f64> = (0..8).map(|i| i as f64 / 8.0).collect();
    assert_eq!(points.times(), times);
    // The first half of 50 steps are those of a schedule of 1,000 even ones.
    let schedule = Schedule::LinearQuadratic {
        steps: 50,
        threshold: 0.025,
    };
    for (i, time) in Solver::default()
        .points(&schedule, 1)
        .times()
        .iter()
        .take(26)
        .enumerate()
    {
        assert!((time - i as f64 / 1000.0).abs() < 1e-12);
    }
}

#[test]
fn a_straight_flow_is_followed_exactly() {
    for solver in SOLVERS {
        for schedule in [1, 2, 3, 7].into_iter().flat_map(schedules) {
            let (end, passes) = follow(solver, &schedule, 1.0, |_| -3.0);
            let length = solver.points(&schedule, 2048).sigmas[0];
            assert!(
                (end - (1.0 - 3.0 * length)).abs() < 1e-12,
                "{solver:?} {schedule:?}: {end}"
            );
            assert_eq!(passes, solver.passes(schedule.steps()));
        }
    }
}

// dx/dt = cos x from 0 is the Gudermannian function.
#[test]
fn more_steps_and_higher_orders_come_closer() {
    let error = |solver: Solver, steps: usize| {
        let schedule = Schedule::Linear { steps };
        let length = solver.points(&schedule, 1).sigmas[0];
        let exact = 2.0 * (length / 2.0).tanh().atan();
        (follow(solver, &schedule, 0.0, f64::cos).0 - exact).abs()
    };
    for solver in SOLVERS {
        let [few, more] = [20, 40].map(|steps| error(solver, steps));
        let gain = few / more;
        let first_order = matches!(solver, Solver::Euler {} | Solver::EulerDiffusers {});
        let wanted = match solver {
            Solver::Heun {} | Solver::Midpoint {} => 3.5..4.5,
            // Their clock runs without end at both ends, where on an even grid a step stays long, and
            // the last is of first order: second order shows in the middle alone.
            Solver::Unipc {} | Solver::UnipcWan {} | Solver::DpmppWan {} => 1.7..3.0,
            Solver::Euler {} | Solver::EulerDiffusers {} => 1.8..2.2,
        };
        assert!(
            wanted.contains(&gain),
            "{solver:?}: {few:e} to {more:e}, {gain}"
        );
        if !first_order {
            assert!(few < error(Solver::Euler {}, 20) / 5.0, "{solver:?}");
        }
    }
}

#[test]
fn a_point_that_was_moved_stays_moved() {
    let schedule = shift(6, 3.0, None);
    for solver in SOLVERS {
        // Heun and midpoint go on from the start of a step, of which the second pass knows nothing.
        if solver.passes(6) != 6 {
            continue;
        }
        let sigmas = solver.points(&schedule, 1).sigmas;
        let mut runs = [(); 2].map(|_| Run::new(solver, &schedule, 1));
        let mut points = [scalar(0.3), scalar(0.3)];
        for (i, sigma) in sigmas[..5].iter().enumerate() {
            if i == 2 {
                points[1] = points[1].clone() + 0.25;
            }
            let apart = value(points[1].clone() - points[0].clone());
            let data = (i as f64).sin();
            for (run, point) in runs.iter_mut().zip(&mut points) {
                // Both models have the same opinion of the data.
                let velocity = scalar(data - value(point.clone())) / *sigma;
                *point = run.step(point.clone(), velocity);
            }
            let now = value(points[1].clone() - points[0].clone());
            let kept = apart * sigmas[i + 1] / sigma;
            assert!(
                (now - kept).abs() < 1e-12,
                "{solver:?} at {i}: {now} {kept}"
            );
        }
    }
}

#[test]
fn shifts_are_what_they_say() {
    let solver = Solver::default();
    let sigmas = |schedule: &Schedule, positions| solver.points(schedule, positions).sigmas;
    let near = |a: &[f64], b: &[f64]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-14)
    };
    let linear = sigmas(&Schedule::Linear { steps: 9 }, 1);
    assert!(near(&sigmas(&shift(9, 1.0, None), 1), &linear));
    // Half of the way of four steps is 3 / 4 of the noise at shift 3.
    assert_eq!(sigmas(&shift(4, 3.0, None), 1)[2], 0.75);

    let dynamic = Schedule::DynamicShift {
        steps: 9,
        positions: [1024, 4096],
        mu: [0.95, 2.05],
        terminal: None,
    };
    for (positions, mu) in [(1024, 0.95), (2560, 1.5), (4096, 2.05), (5632, 2.6)] {
        let fixed = sigmas(&shift(9, f64::exp(mu), None), 1);
        assert!(near(&sigmas(&dynamic, positions), &fixed), "{positions}");
    }

    let free = sigmas(&shift(9, 3.0, None), 1);
    let stretched = sigmas(&shift(9, 3.0, Some(0.1)), 1);
    assert_eq!((stretched[0], stretched[9]), (1.0, 0.0));
    assert!((stretched[8] - 0.1).abs() < 1e-15);
    let scale = (1.0 - 0.1) / (1.0 - free[8]);
    let wanted: Vec<f64> = free[..9].iter().map(|u| 1.0 - (1.0 - u) * scale).collect();
    assert!(near(&stretched[..9], &wanted));
}

#[test]
fn settings_are_checked() {
    let solver = Solver::default();
    let dynamic = |positions, mu| Schedule::DynamicShift {
        steps: 4,
        positions,
        mu,
        terminal: None,
    };
    for (schedule, words) in [
        (Schedule::Linear { steps: 0 }, "schedule.steps = 0"),
        (shift(4, 0.0, None), "schedule.shift = 0"),
        (shift(4, f64::NAN, None), "schedule.shift = NaN"),
        (shift(4, 3.0, Some(0.0)), "schedule.terminal = 0"),
        (shift(4, 3.0, Some(0.9)), "schedule.terminal = 0.9"),
        (dynamic([4096, 1024], [0.5, 1.0]), "schedule.positions"),
        (dynamic([1024, 4096], [0.5, 9.0]), "schedule.mu"),
        (
            Schedule::LinearQuadratic {
                steps: 4,
                threshold: 0.6,
            },
            "schedule.threshold = 0.6",
        ),
    ] {
        let error = solver.check(&schedule).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
        assert!(error.contains("\n  help: "), "{error}");
    }
    // Steps that single precision, or the distance from 1, cannot tell apart.
    let fine = shift(10_000, 100.0, None);
    solver.check(&fine).unwrap();
    let error = Solver::Unipc {}.check(&fine).unwrap_err();
    assert!(
        matches!(error, ScheduleError::TooFine { step: 1, .. }),
        "{error}"
    );
}

#[test]
fn settings_are_read_and_written_and_unknown_keys_are_errors() {
    for solver in SOLVERS {
        let text = format!(r#"{{"kind":"{}"}}"#, solver.name());
        assert_eq!(serde_json::to_string(&solver).unwrap(), text);
        assert_eq!(serde_json::from_str::<Solver>(&text).unwrap(), solver);
        let more = text.replace('}', r#","order":3}"#);
        assert!(serde_json::from_str::<Solver>(&more).is_err(), "{more}");
    }
    for schedule in schedules(5) {
        let text = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule);
    }
    for text in [
        r#"{"kind":"linear","steps":4,"shift":3.0}"#,
        r#"{"kind":"linear-quadratic","steps":4,"threshold":0.1,"terminal":0.1}"#,
        r#"{"kind":"shift","steps":4}"#,
    ] {
        assert!(serde_json::from_str::<Schedule>(text).is_err(), "{text}");
    }
}
