//! What came out: rows of numbers, ratios against the yardstick, a page of Markdown.

use std::{fmt::Write as _, time::Duration};

use hdrhistogram::Histogram;

use crate::{generator::Window, machine::Machine, process::Usage};

/// One server under one load.
#[derive(Debug, Clone)]
pub struct Row {
    /// The load, for example `get-one, 2000/s`.
    pub load: String,
    /// The server.
    pub server: &'static str,
    /// What was measured.
    pub window: Window,
    /// Processor time of the server while it was measured, if it has a process of its own.
    pub cpu: Option<Duration>,
    /// Resident memory of the server at the end, KiB.
    pub rss_kib: u64,
    /// The p99 of each turn, nanoseconds: how much the machine's noise moves it.
    pub turns_p99_ns: Vec<u64>,
}

/// The difference between a create through the gateway and its vendor calls alone.
#[derive(Debug, Clone)]
pub struct Overhead {
    /// The cloud.
    pub cloud: String,
    /// Creates through the gateway, nanoseconds.
    pub gateway: Histogram<u64>,
    /// The same vendor calls straight to the cloud, nanoseconds.
    pub direct: Histogram<u64>,
    /// Of those, the create call alone.
    pub direct_create: Histogram<u64>,
    /// One write of 4 KiB and `fdatasync` after each pair, nanoseconds: what a durable step is made of on this disk.
    pub sync: Histogram<u64>,
    /// Looks at the instances of the direct creates, per create.
    pub looks_per_create: f64,
    /// Creates that failed, on either side.
    pub errors: u64,
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its name in the title and the file's name.
    pub name: String,
    /// The machine.
    pub machine: Machine,
    /// The command line.
    pub command: String,
    /// Rows in the order they were measured.
    pub rows: Vec<Row>,
    /// Create overheads by cloud.
    pub overheads: Vec<Overhead>,
    /// The gateway doing nothing but polling: processor time, and over how long.
    pub idle: Option<(Duration, Duration)>,
    /// Of the gateway at the end.
    pub gateway: Usage,
    /// Remarks for whoever reads the numbers.
    pub notes: Vec<String>,
}

/// Milliseconds of a quantile.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds below 2^53")]
fn quantile_ms(h: &Histogram<u64>, q: f64) -> f64 {
    h.value_at_quantile(q) as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

/// `a / b`; nothing when there is no `b`.
fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

/// The middle value, the upper one of two.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

impl Row {
    /// Microseconds of processor time per request, failed ones included.
    #[must_use]
    pub fn cpu_us_per_request(&self) -> Option<f64> {
        ratio(self.cpu?.as_secs_f64() * 1e6, as_f64(self.window.total()))
    }

    fn cells(&self) -> String {
        let w = &self.window;
        let ms = |q| format!("{:.3}", quantile_ms(&w.latency, q));
        let errors = match w.errors.iter().map(|(code, n)| format!("{n} x {code}")).collect::<Vec<_>>() {
            none if none.is_empty() => "0".to_owned(),
            some => some.join(", "),
        };
        let cpu = self.cpu_us_per_request().map_or_else(|| "-".to_owned(), |us| format!("{us:.0}"));
        format!(
            "| {} | {} | {} | {:.0} | {} | {} | {} | {:.3} / {:.3} | {cpu} | {} | {errors} |",
            self.load,
            self.server,
            w.good,
            w.per_second(),
            ms(0.5),
            ms(0.99),
            ms(0.999),
            quantile_ms(&w.service, 0.5),
            quantile_ms(&w.service, 0.99),
            self.rss_kib / 1024,
        )
    }
}

impl Overhead {
    /// Milliseconds that the gateway adds at a quantile: the difference of the two distributions' quantiles.
    #[must_use]
    pub fn added_ms(&self, q: f64) -> f64 {
        quantile_ms(&self.gateway, q) - quantile_ms(&self.direct, q)
    }
}

impl Report {
    /// Rows of a load other than the yardstick's, each with the yardstick's under the same load.
    fn compared(&self) -> impl Iterator<Item = (&Row, &Row)> {
        let beside = |row: &Row| self.rows.iter().find(|r| r.server == "hello" && r.load == row.load);
        self.rows.iter().filter(|r| r.server != "hello").filter_map(move |row| Some((row, beside(row)?)))
    }

    /// Ratios against hello-world, one line per load.
    #[must_use]
    pub fn ratios(&self) -> String {
        let mut text = String::from(
            "| load | throughput | p50 | p99 | p99, median of turns | p99.9 | CPU per request |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        let show = |r: Option<f64>| r.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
        for (row, hello) in self.compared() {
            let quantile = |q| show(ratio(quantile_ms(&row.window.latency, q), quantile_ms(&hello.window.latency, q)));
            let turns: Vec<f64> = row
                .turns_p99_ns
                .iter()
                .zip(&hello.turns_p99_ns)
                .filter_map(|(row, hello)| ratio(as_f64(*row), as_f64(*hello)))
                .collect();
            let cpu = row.cpu_us_per_request().zip(hello.cpu_us_per_request()).and_then(|(a, b)| ratio(a, b));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                row.load,
                show(ratio(row.window.per_second(), hello.window.per_second())),
                quantile(0.5),
                quantile(0.99),
                show(median(&turns)),
                quantile(0.999),
                show(cpu)
            );
        }
        text
    }

    fn table(&self) -> String {
        let mut text = String::from(
            "| load | server | good | rps | p50 ms | p99 ms | p99.9 ms | service p50 / p99 ms | CPU µs/request | RSS MiB | errors |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
        );
        for row in &self.rows {
            text.push_str(&row.cells());
            text.push('\n');
        }
        text
    }

    fn overhead_table(&self) -> String {
        let mut text = String::from(
            "| cloud | pairs | gateway p50 / p99 ms | vendor calls alone p50 / p99 ms | of these the create p50 ms | difference p50 ms | difference p90 ms | one fdatasync p50 / p90 ms | looks per create | errors |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for o in &self.overheads {
            let _ = writeln!(
                text,
                "| {} | {} | {:.2} / {:.2} | {:.2} / {:.2} | {:.2} | **{:.2}** | {:.2} | {:.2} / {:.2} | {:.2} | {} |",
                o.cloud,
                o.gateway.len(),
                quantile_ms(&o.gateway, 0.5),
                quantile_ms(&o.gateway, 0.99),
                quantile_ms(&o.direct, 0.5),
                quantile_ms(&o.direct, 0.99),
                quantile_ms(&o.direct_create, 0.5),
                o.added_ms(0.5),
                o.added_ms(0.9),
                quantile_ms(&o.sync, 0.5),
                quantile_ms(&o.sync, 0.9),
                o.looks_per_create,
                o.errors
            );
        }
        text
    }

    /// The page, dated `date` (YYYY-MM-DD).
    #[must_use]
    pub fn markdown(&self, date: &str) -> String {
        let m = &self.machine;
        let mut text = format!(
            "# {name}\n\n{date}. Commit {commit}. {compiler}.\n\n- Machine: {hardware}; generator, servers and simulated \
             clouds share it.\n- Load averages (1, 5, 15 min) before the run: {load}.\n- One write of 4 KiB and \
             `fdatasync` in the data folder: {sync:.3} ms at p50.\n- Command: `{command}`\n\nOpen-loop latency counts \
             from the planned send time; *service* from the actual one. Closed-loop rows (*saturated*) measure \
             throughput.\n\n## Loads\n\n{table}\n## Against hello-world under the same load (1 = equal)\n\n{ratios}",
            name = self.name,
            commit = m.commit,
            compiler = m.compiler,
            hardware = m.hardware,
            load = m.load_before,
            sync = m.sync_p50.as_secs_f64() * 1e3,
            command = self.command,
            table = self.table(),
            ratios = self.ratios(),
        );
        if !self.overheads.is_empty() {
            let _ = write!(
                text,
                "\n## Create: through the gateway and straight to the cloud, alternately, one at a time\n\n{}",
                self.overhead_table()
            );
        }
        let _ = writeln!(
            text,
            "\n## Gateway process\n\nResident {} MiB at the end, {} MiB at most.",
            self.gateway.rss_kib / 1024,
            self.gateway.rss_peak_kib / 1024
        );
        if let Some((cpu, over)) = self.idle {
            let share = ratio(cpu.as_secs_f64() * 100.0, over.as_secs_f64()).unwrap_or_default();
            let _ = writeln!(
                text,
                "Without requests it used {:.2} s of processor time in {:.0} s ({share:.1} % of one core) for polling \
                 the regions; the rows above include that.",
                cpu.as_secs_f64(),
                over.as_secs_f64()
            );
        }
        if !self.notes.is_empty() {
            text.push_str("\n## Notes\n\n");
            for note in &self.notes {
                let _ = writeln!(text, "- {note}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::histogram;

    fn row(server: &'static str, latency_us: u64, count: u64, cpu_ms: u64) -> Row {
        let mut window = Window { elapsed: Duration::from_secs(2), ..Window::default() };
        for _ in 0..count {
            window.record(Duration::from_micros(latency_us), Duration::from_micros(latency_us / 2), 100);
        }
        let turns_p99_ns = vec![latency_us * 1000; 3];
        Row {
            load: "get-one".to_owned(),
            server,
            window,
            cpu: Some(Duration::from_millis(cpu_ms)),
            rss_kib: 2048,
            turns_p99_ns,
        }
    }

    fn report() -> Report {
        let (mut gateway, mut direct) = (histogram(), histogram());
        for n in 1..=99_u64 {
            gateway.record(n * 100_000).unwrap();
            direct.record(n * 60_000).unwrap();
        }
        let overhead = Overhead {
            cloud: "tencent-eksci".to_owned(),
            direct_create: direct.clone(),
            sync: direct.clone(),
            gateway,
            direct,
            looks_per_create: 1.0,
            errors: 0,
        };
        Report {
            name: "first bench".to_owned(),
            machine: Machine {
                hardware: "2 cores".to_owned(),
                load_before: "0.1 0.2 0.3".to_owned(),
                commit: "abc".to_owned(),
                compiler: "rustc".to_owned(),
                sync_p50: Duration::from_micros(84),
            },
            command: "bench".to_owned(),
            rows: vec![row("hello", 100, 200, 4), row("gateway", 150, 100, 6)],
            overheads: vec![overhead],
            idle: Some((Duration::from_millis(320), Duration::from_secs(16))),
            gateway: Usage { cpu: Duration::ZERO, rss_kib: 40 * 1024, rss_peak_kib: 50 * 1024 },
            notes: vec!["a note".to_owned()],
        }
    }

    #[test]
    fn ratios_are_gateway_over_hello() {
        let ratios = report().ratios();
        let line = ratios.lines().last().unwrap();
        // 50/s of 100/s; 150 of 100 microseconds three times; 60 of 20 microseconds of processor time.
        assert_eq!(line, "| get-one | 0.50 | 1.50 | 1.50 | 1.50 | 1.50 | 3.00 |");
    }

    #[test]
    fn the_difference_of_the_medians_is_the_overhead() {
        let report = report();
        // Medians are the 50th of 99 values: 5 ms and 3 ms.
        assert!((report.overheads[0].added_ms(0.5) - 2.0).abs() < 0.01, "{}", report.overheads[0].added_ms(0.5));
        assert!(report.markdown("2026-01-01").contains("| **2.00** |"), "{}", report.overhead_table());
    }

    #[test]
    fn the_page_holds_every_number() {
        let page = report().markdown("2026-01-01");
        for part in [
            "# first bench\n\n2026-01-01. Commit abc.",
            "| get-one | hello | 200 | 100 | 0.100 | 0.100 | 0.100 | 0.050 / 0.050 | 20 | 2 | 0 |",
            "| get-one | gateway | 100 | 50 | 0.150 | 0.150 | 0.150 | 0.075 / 0.075 | 60 | 2 | 0 |",
            "0.084 ms at p50",
            "Resident 40 MiB at the end, 50 MiB at most",
            "0.32 s of processor time in 16 s (2.0 % of one core)",
            "- a note",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        let mut report = report();
        report.rows = vec![row("hello", 100, 0, 0), row("gateway", 150, 0, 0)];
        assert!(report.ratios().ends_with("| get-one | - | - | - | 1.50 | - | - |\n"), "{}", report.ratios());
    }
}
