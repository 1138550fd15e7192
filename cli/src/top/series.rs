//! The last minutes as columns of a chart.

use flotilla_controller::admin::TrafficPoint;

use super::state::State;

/// Seconds that a column may stand for, and the least that a chart shows.
const STEPS: [u64; 5] = [1, 2, 5, 10, 15];
const SHOWN: u64 = 180;

/// What a chart is of.
pub(super) struct Series {
    pub(super) title: &'static str,
    pub(super) read: fn(&TrafficPoint) -> Option<f64>,
    /// Percentiles of several seconds have no mean: the worst second stands for them.
    pub(super) worst: bool,
    pub(super) text: fn(f64) -> String,
}

/// How many seconds a column stands for where there are `width` columns.
pub(super) fn step(width: u16) -> u64 {
    let enough = |step: &&u64| u64::from(width) * **step >= SHOWN;
    *STEPS.iter().find(enough).unwrap_or(&STEPS[STEPS.len() - 1])
}

/// The newest `width` columns, the oldest first. `None`: nothing is known of that time.
pub(super) fn columns(state: &State, series: &Series, width: u16) -> Vec<Option<f64>> {
    let step_ms = step(width) * 1_000;
    let width = usize::from(width);
    let Some(newest) = state.newest().map(|point| point.at / step_ms) else {
        return vec![None; width];
    };
    let mut sums = vec![(0.0_f64, 0_u32); width];
    // A column begins at the same times whenever it is looked at, so that charts do not flicker.
    for point in state.traffic.iter().rev() {
        let back = newest.saturating_sub(point.at / step_ms) as usize;
        if back >= width {
            break;
        }
        let Some(value) = (series.read)(point) else {
            continue;
        };
        let (sum, of) = &mut sums[width - 1 - back];
        *sum = match series.worst {
            true => sum.max(value),
            false => *sum + value,
        };
        *of = if series.worst { 1 } else { *of + 1 };
    }
    let column = |(sum, of): (f64, u32)| (of > 0).then(|| sum / f64::from(of));
    sums.into_iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::super::feed::Event;
    use super::super::fixture::point;
    use super::super::link::News;
    use super::*;
    use std::time::Instant;

    fn series(worst: bool) -> Series {
        Series {
            title: "",
            read: |point| Some((point.at / 1_000) as f64).filter(|at| *at != 4.0),
            worst,
            text: |_| String::new(),
        }
    }

    #[test]
    fn columns_are_means_or_the_worst_of_their_seconds_with_gaps_where_nothing_is_known() {
        assert_eq!([step(200), step(100), step(40), step(5)], [1, 2, 5, 15]);
        let mut state = State::new("u");
        assert_eq!(columns(&state, &series(false), 2), [None, None]);
        let points = [1, 2, 3, 4, 40, 44, 45].into_iter().map(point).collect();
        state.apply(News::Heard(vec![Event::Traffic(points)]), Instant::now());
        let of = |worst| columns(&state, &series(worst), 40).split_off(30);
        let gap = None::<f64>;
        let rest = [gap, gap, gap, gap, gap, gap];
        assert_eq!(
            of(false),
            [&[Some(2.0)][..], &rest, &[gap, Some(42.0), Some(45.0)]].concat()
        );
        assert_eq!(of(true)[8..], [Some(44.0), Some(45.0)]);
    }
}
