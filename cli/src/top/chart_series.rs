//! Time series of the last minutes as columns of a chart.

use flotilla_controller::admin::TrafficPoint;

use super::state::LiveState;

/// Numbers of seconds that a column can cover.
const COLUMN_SECONDS: [u64; 5] = [1, 2, 5, 10, 15];
/// Minimum number of seconds that a chart shows if it has enough columns.
const MIN_CHART_SECONDS: u64 = 180;

/// The way in which a column combines the values of its seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregation {
    Mean,
    /// The largest value. For percentiles, which have no meaningful mean.
    Max,
}

/// A quantity over time.
pub(super) struct ChartSeries {
    pub(super) title: &'static str,
    /// Reads the value of a second. `None`: unknown.
    pub(super) value: fn(&TrafficPoint) -> Option<f64>,
    pub(super) aggregation: Aggregation,
    /// Formats a value with its unit.
    pub(super) format: fn(f64) -> String,
}

/// Returns the seconds per column of a chart with `width` columns.
pub(super) fn seconds_per_column(width: u16) -> u64 {
    let is_enough = |seconds: &&u64| u64::from(width) * **seconds >= MIN_CHART_SECONDS;
    let longest = COLUMN_SECONDS[COLUMN_SECONDS.len() - 1];
    *COLUMN_SECONDS.iter().find(is_enough).unwrap_or(&longest)
}

/// Returns the newest `width` columns, the oldest first. `None`: no value is known for that time.
pub(super) fn columns(state: &LiveState, series: &ChartSeries, width: u16) -> Vec<Option<f64>> {
    let column_ms = seconds_per_column(width) * 1_000;
    let width = usize::from(width);
    let Some(newest) = state.newest_point().map(|point| point.at / column_ms) else {
        return vec![None; width];
    };
    let mut sums = vec![(0.0_f64, 0_u32); width];
    // Columns start at multiples of their length, so that a chart moves column by column and does
    // not flicker.
    for point in state.traffic.iter().rev() {
        let columns_back = newest.saturating_sub(point.at / column_ms) as usize;
        if columns_back >= width {
            break;
        }
        let Some(value) = (series.value)(point) else {
            continue;
        };
        let (sum, count) = &mut sums[width - 1 - columns_back];
        match series.aggregation {
            Aggregation::Mean => (*sum, *count) = (*sum + value, *count + 1),
            Aggregation::Max => (*sum, *count) = (sum.max(value), 1),
        }
    }
    let column = |(sum, count): (f64, u32)| (count > 0).then(|| sum / f64::from(count));
    sums.into_iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::super::connection::FeedUpdate;
    use super::super::feed::FeedEvent;
    use super::super::fixtures::point;
    use super::*;
    use std::time::Instant;

    fn series(aggregation: Aggregation) -> ChartSeries {
        ChartSeries {
            title: "",
            value: |point| Some((point.at / 1_000) as f64).filter(|second| *second != 4.0),
            aggregation,
            format: |_| String::new(),
        }
    }

    #[test]
    fn columns_are_the_mean_or_the_maximum_of_their_seconds_with_gaps_for_unknown_times() {
        assert_eq!([200, 100, 40, 5].map(seconds_per_column), [1, 2, 5, 15]);
        let mut state = LiveState::new("u");
        let mean = series(Aggregation::Mean);
        assert_eq!(columns(&state, &mean, 2), [None, None]);
        let points = [1, 2, 3, 4, 40, 44, 45].into_iter().map(point).collect();
        let update = FeedUpdate::Events(vec![FeedEvent::Traffic(points)]);
        state.apply(update, Instant::now());
        let last_columns = |aggregation| columns(&state, &series(aggregation), 40).split_off(30);
        let gap = None::<f64>;
        let gaps = [gap, gap, gap, gap, gap, gap];
        assert_eq!(
            last_columns(Aggregation::Mean),
            [&[Some(2.0)][..], &gaps, &[gap, Some(42.0), Some(45.0)]].concat()
        );
        assert_eq!(
            last_columns(Aggregation::Max)[8..],
            [Some(44.0), Some(45.0)]
        );
    }
}
