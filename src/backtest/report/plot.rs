//! The plots of the page, each as one SVG element.
//!
//! Must not: decide anything; the numbers are the report's.

use std::error::Error as StdError;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::super::Error;
use super::{Group, Row, Timeline, label, price_text};

const SIZE: (u32, u32) = (960, 420);
const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(23, 190, 207),
    RGBColor(127, 127, 127),
];
const NEED: RGBColor = COLOURS[0];
const WARM: RGBColor = COLOURS[1];
const COLD: RGBColor = RGBColor(214, 39, 40);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), Box<dyn StdError>>;

/// Cold starts against idle time: a line with its prices for each policy that has one, a point for each other.
///
/// `none` is left out: it idles never and starts cold always, so that all others would lie in one corner.
pub(super) fn cold_against_idle(title: &str, group: &Group) -> Result<String, Error> {
    drawn(title, |area| {
        let mut shown: Vec<&Row> = group.rows.iter().filter(|row| row.policy != "none").collect();
        // Single points over the lines, so that none is hidden.
        shown.sort_by_key(|row| row.price_s.is_none());
        let idle = |row: &Row| row.idle_minutes as f64;
        let (idle_max, cold_max) =
            shown.iter().fold((1.0, 1.0), |(x, y): (f64, f64), row| (x.max(idle(row)), y.max(row.cold as f64)));
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(80)
            .build_cartesian_2d(0.0..idle_max * 1.15, 0.0..cold_max * 1.1)?;
        mesh(&mut chart, "idle instance-minutes", "cold starts")?;
        let mut policies: Vec<&str> = shown.iter().map(|row| row.policy.as_str()).collect();
        policies.dedup();
        for (policy, colour) in policies.into_iter().zip(COLOURS.iter().cycle()) {
            let rows: Vec<&Row> = shown.iter().copied().filter(|row| row.policy == policy).collect();
            let points = rows.iter().map(|row| (idle(row), row.cold as f64));
            chart
                .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
                .label(policy)
                .legend(|(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
            chart.draw_series(points.map(|at| Circle::new(at, 4, colour.filled())))?;
            chart.draw_series(rows.iter().filter_map(|row| {
                let price = price_text(row.price_s?);
                let text = Text::new(price, (6, -14), ("sans-serif", 12).into_font().color(colour));
                Some(EmptyElement::at((idle(row), row.cold as f64)) + text)
            }))?;
        }
        legend(&mut chart)?;
        Ok(())
    })
}

/// One function over time: what it needed, what was held, and where it started cold.
pub(super) fn timeline(timeline: &Timeline) -> Result<String, Error> {
    let class = timeline.class.as_ref().map_or_else(String::new, |class| format!(" ({class})"));
    let policy = label(&timeline.policy, timeline.price_s);
    let title = format!("{}{class}, {policy}: {} calls, {} cold", timeline.function, timeline.calls, timeline.cold);
    drawn(&title, |area| {
        let most = timeline.needs.iter().chain(&timeline.warm).copied().max().unwrap_or(0);
        let mut chart = ChartBuilder::on(area)
            .caption(&title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(80)
            .build_cartesian_2d(0.0..timeline.needs.len() as f64, 0.0..f64::from(most.max(1)) * 1.4)?;
        mesh(&mut chart, "minute", "instances")?;
        for (name, values, colour) in [("held", &timeline.warm, WARM), ("needed", &timeline.needs, NEED)] {
            chart
                .draw_series(LineSeries::new(stairs(values), colour.stroke_width(1)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        let cold = (0..).zip(timeline.needs.iter().zip(&timeline.warm)).filter(|(_, (need, warm))| need > warm);
        chart
            .draw_series(
                cold.map(|(minute, (need, _))| {
                    Circle::new((f64::from(minute) + 0.5, f64::from(*need)), 3, COLD.filled())
                }),
            )?
            .label("cold starts")
            .legend(|(x, y)| Circle::new((x + 8, y), 3, COLD.filled()));
        legend(&mut chart)?;
        Ok(())
    })
}

/// Grid and axes, with whole numbers at them.
fn mesh<'a>(chart: &mut Chart<'a>, x: &str, y: &str) -> Drawn {
    let whole = |value: &f64| format!("{value:.0}");
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(x).y_desc(y).x_label_formatter(&whole).y_label_formatter(&whole).light_line_style(TRANSPARENT);
    Ok(mesh.draw()?)
}

fn legend<'a>(chart: &mut Chart<'a>) -> Drawn {
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperRight).background_style(WHITE).border_style(BLACK);
    Ok(labels.draw()?)
}

/// Values that hold for a minute each, as the corners of a line. Corners in the middle of a level are left out.
fn stairs(values: &[u32]) -> Vec<(f64, f64)> {
    let mut corners = Vec::new();
    let mut before = None;
    for (minute, &value) in (0_u32..).zip(values) {
        if before != Some(value) {
            corners.extend(before.map(|before| (f64::from(minute), f64::from(before))));
            corners.push((f64::from(minute), f64::from(value)));
        }
        before = Some(value);
    }
    corners.extend(before.map(|before| (values.len() as f64, f64::from(before))));
    corners
}

fn drawn(title: &str, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String, Error> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    let result = draw(&area).and_then(|()| Ok(area.present()?));
    drop(area);
    result.map_err(|fault| Error::Plot { plot: title.to_owned(), fault: fault.to_string() })?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stairs_have_their_corners_and_no_more() {
        assert_eq!(stairs(&[]), []);
        assert_eq!(stairs(&[2, 2, 2]), [(0.0, 2.0), (3.0, 2.0)]);
        assert_eq!(stairs(&[0, 0, 3, 1]), [(0.0, 0.0), (2.0, 0.0), (2.0, 3.0), (3.0, 3.0), (3.0, 1.0), (4.0, 1.0)]);
    }
}
