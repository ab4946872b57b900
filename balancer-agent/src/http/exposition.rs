//! Writes a scrape down as OpenMetrics text. Pure.
//!
//! One module for each subject, listed in [`SUBJECTS`]; a new subject is a module with a function
//! from [`View`] to [`Sheet`], a line there, and its rows in `docs/metrics.md`, which a test compares.

mod agent;
mod backends;
mod dns;
mod drains;
mod http2;
mod kubernetes;
mod outcomes;
mod requests;
mod services;
mod tables;
#[cfg(test)]
pub(super) mod tests;
mod work;

use super::view::View;
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, MetricEncoder,
        NoLabelSet, text,
    },
    metrics::{MetricType, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::fmt;

type Subject = fn(&View, &mut Sheet<'_>) -> fmt::Result;

/// Everything that is told, in this order.
const SUBJECTS: &[Subject] = &[
    agent::write,
    work::write,
    outcomes::write,
    tables::write,
    services::write,
    backends::write,
    drains::write,
    requests::write,
    http2::write,
    kubernetes::write,
    dns::write,
];

/// Writes everything.
pub(super) fn write(view: View) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("balancer");
    registry.register_collector(Box::new(view));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for View {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        SUBJECTS.iter().try_for_each(|write| write(self, &mut sheet))
    }
}

/// Where subjects write their metrics, each with its name, unit, meaning and samples.
struct Sheet<'a>(DescriptorEncoder<'a>);

/// A sample's labels.
type Labels<'v, const N: usize> = [(&'static str, &'v str); N];

// === impl Sheet ===

impl Sheet<'_> {
    /// A gauge for each set of labels.
    fn gauges<'v, const N: usize>(
        &mut self,
        (name, unit, help): (&str, Option<Unit>, &str),
        samples: impl IntoIterator<Item = (Labels<'v, N>, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in samples {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A counter for each set of labels; `_total` is added to its name.
    fn counters<'v, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        samples: impl IntoIterator<Item = (Labels<'v, N>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            encode_counter(&mut metric.encode_family(&labels)?, &value)?;
        }
        Ok(())
    }

    /// A gauge without labels.
    #[expect(clippy::needless_pass_by_value, reason = "values are numbers")]
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A gauge in seconds without labels; `_seconds` is added to its name.
    fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A counter without labels; `_total` is added to its name.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encode_counter(&mut metric, &value)
    }

    /// Facts as labels; `_info` is added to its name.
    fn info<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        facts: &Labels<'_, N>,
    ) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(facts)
    }

    /// A histogram of seconds that somebody else has counted, for each set of labels: ends of buckets, and
    /// counts of each. The sum, which nobody has, is as if all were in the middle of their buckets.
    fn counts<'v, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        samples: impl IntoIterator<Item = (Labels<'v, N>, Vec<(f64, u64)>)>,
    ) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (labels, buckets) in samples {
            let count = buckets.iter().map(|(_, count)| count).sum();
            let (mut sum, mut begin) = (0.0, 0.0);
            for (end, count) in &buckets {
                let middle = if end.is_finite() { f64::midpoint(begin, *end) } else { begin };
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                let counted = *count as f64;
                (sum, begin) = (middle.mul_add(counted, sum), *end);
            }
            let mut family = metric.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    /// A histogram of seconds; `_seconds` is added to its name.
    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        histogram.encode(self.0.encode_descriptor(name, help, unit, MetricType::Histogram)?)
    }
}

fn encode_counter(metric: &mut MetricEncoder<'_>, value: &impl EncodeCounterValue) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, _, f64>(value, None)
}
