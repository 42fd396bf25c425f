#[path = "../tests/common/mod.rs"]
mod common;
use common::*;
use expman_model::record::Stream;
use expman_model::*;
#[tokio::main]
async fn main() {
    let sandbox = Sandbox::new();
    for (n, s) in [
        ("baseline", RunStatus::Finished),
        ("bad-lr", RunStatus::Failed),
        ("preempted", RunStatus::Preempted),
    ] {
        let mut r = sandbox.run("digits-mlp", n, 4);
        for step in 0..200 {
            for rank in 0..4 {
                r.metric(
                    rank,
                    "train/loss",
                    Some(step),
                    Value::Float(2.3 / (1.0 + step as f64 / 20.0)),
                );
            }
        }
        if s == RunStatus::Failed {
            r.log(
                1,
                RecordBody::Outcome {
                    status: s,
                    message: "loss became NaN".into(),
                    traceback: "Traceback (most recent call last):\n  File \"train.py\", line 3"
                        .into(),
                },
            );
        }
        r.finish(s);
    }
    sandbox.run("sweep", "crashed-one", 2).abandon();
    write(&sandbox.base.path().join("sweep/broken/run.yaml"), b"a: [");
    let mut live = sandbox.run("digits-mlp", "ddp4-20260101", 4);
    live.log(
        0,
        RecordBody::Params(Param::Map(vec![
            ("lr".into(), Param::Float(0.1)),
            (
                "model".into(),
                Param::Map(vec![
                    ("hidden".into(), Param::Int(64)),
                    (
                        "layers".into(),
                        Param::List(vec![Param::Int(64), Param::Int(10)]),
                    ),
                ]),
            ),
            ("batch_size".into(), Param::Int(64)),
            ("data".into(), Param::Text("sklearn digits".into())),
        ])),
    );
    live.log(
        0,
        RecordBody::Scalar(Point::new("best_accuracy", Value::Float(0.934))),
    );
    write(&live.dir.artifacts().join("model.npz"), &[0; 40_000]);
    live.message(0, Level::INFO, "training starts");
    live.message(2, Level::WARN, "dataloader stalled 41 ms");
    let port = std::env::args().nth(1).map_or(8123, |p| p.parse().unwrap());
    let config = expman_server::ServeConfig {
        port,
        ..sandbox.config()
    };
    let listener = expman_server::bind(&config).await.unwrap();
    println!("listening on http://{}", listener.local_addr().unwrap());
    tokio::spawn(expman_server::serve_with_listener(
        config,
        listener,
        std::future::pending(),
    ));
    let mut seed = 1u64;
    let mut rnd = move || {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as f64 / 2f64.powi(31)
    };
    for step in 0.. {
        for rank in 0..4u32 {
            let k = f64::from(rank);
            let noise = rnd() - 0.5;
            let spike = if step == 777 && rank == 2 { 3.0 } else { 0.0 };
            live.log(
                rank,
                RecordBody::Metrics {
                    step: Some(step),
                    points: vec![
                        Point::new(
                            "train/loss",
                            Value::Float(
                                2.3 / (1.0 + step as f64 / 60.0)
                                    + 0.05
                                    + noise * 0.08
                                    + k * 0.02
                                    + spike,
                            ),
                        ),
                        Point::new(
                            "train/accuracy",
                            Value::Float(1.0 - 0.9 / (1.0 + step as f64 / 50.0) + noise * 0.02),
                        ),
                        Point::new(
                            "train/grad_norm",
                            Value::Float((5.0 / (1.0 + step as f64 / 100.0)) * (0.8 + rnd() * 0.4)),
                        ),
                        Point::new(
                            "sys/step_time_ms",
                            Value::Float(
                                110.0 + k * 3.0 + rnd() * 8.0 + if rank == 3 { 40.0 } else { 0.0 },
                            ),
                        ),
                        Point::new(
                            "lr",
                            Value::Float(0.1 * (1.0 + (step as f64 / 80.0).cos()) / 2.0),
                        ),
                    ],
                },
            );
            if step % 10 == 0 {
                live.line(
                    rank,
                    if rank == 1 && step % 50 == 0 {
                        Stream::Err
                    } else {
                        Stream::Out
                    },
                    format!(
                        "step {step} loss {:.3} \u{1b}[32mok\u{1b}[0m",
                        2.3 / (1.0 + step as f64 / 60.0)
                    )
                    .as_bytes(),
                );
            }
            if step == 300 && rank == 1 {
                live.metric(1, "train/loss", Some(step), Value::Float(f64::NAN));
            }
        }
        if step > 900 {
            live.commit();
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        } else if step % 50 == 0 {
            live.commit();
        }
    }
}
