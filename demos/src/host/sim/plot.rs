//! `trapline sim --plot FILE.svg`: who ran where, a lane for each pCPU, and how long wake-ups took.
//!
//! A lane is divided into columns of about a pixel, and each has the colour of the VM that ran longest there, the paler the more
//! the pCPU idled: a plot of an hour is no larger than one of a millisecond. More than [`MOST_LANES`] pCPUs share lanes.

use std::{collections::BTreeMap, fmt::Display, ops::Range};

use plotters::{
    coord::Shift,
    prelude::{
        ChartBuilder, Color, DrawingArea, HSLColor, IntoDrawingArea, IntoLogRange, LineSeries,
        RGBColor, Rectangle, SVGBackend, Text, TextStyle, WHITE,
    },
    style::text_anchor::{HPos, Pos, VPos},
};

use trapline_sched::sim::{Histogram, Outcome, Scenario, Stretch};

use super::{ScenarioFile, summary::Summary};

/// More lanes than this nobody can read.
const MOST_LANES: usize = 64;
const COLUMNS: usize = 1200;
/// How wide the picture is, in pixels.
const WIDTH: u32 = 1400;
/// How high lanes are at least and at most, and all of them at best.
const LANE: Range<usize> = 11..32;
const LANES: usize = 480;
const CAPTION: u32 = 70;
const HISTOGRAM: u32 = 260;
/// So many VMs are named in the legend.
const MOST_NAMES: usize = 16;
/// How much of a column's time counts: a quarter, a half, three quarters, all.
const SHADES: u64 = 4;
/// A histogram has so many bars for each doubling of the latency.
const BARS: f64 = 2.0;

/// How everything but titles is written.
const SMALL: (&str, u32) = ("sans-serif", 14);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T> = Result<T, String>;

/// One run in the picture.
pub struct Panel<'a> {
    /// What was run.
    pub scenario: &'a Scenario,
    /// What came out, with its stretches.
    pub outcome: &'a Outcome,
    /// The same for VMs that are alike.
    pub summary: &'a Summary,
}

/// The picture of some runs of the scenario in `file`, one below the other, in SVG; `time` is what is shown of the lanes, in
/// nanoseconds.
///
/// # Errors
/// It cannot be drawn; why.
pub fn svg(file: &ScenarioFile, panels: &[Panel<'_>], time: Range<u64>) -> Drawn<String> {
    let mut text = String::new();
    let lanes = panels
        .first()
        .map_or(1, |panel| Lanes::of(panel.scenario.topology.pcpus).count);
    let lanes_height = (LANES / lanes).clamp(LANE.start, LANE.end) * lanes;
    let height = CAPTION + lanes_height as u32 + 60 + HISTOGRAM;
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height * panels.len().max(1) as u32));
        let root = root.into_drawing_area();
        root.fill(&WHITE).map_err(said)?;
        for (panel, area) in panels
            .iter()
            .zip(root.split_evenly((panels.len().max(1), 1)))
        {
            let (caption, rest) = area.split_vertically(CAPTION);
            let (lanes, histogram) = rest.split_vertically(height - CAPTION - HISTOGRAM);
            draw_caption(&caption, file, panel)?;
            draw_lanes(&lanes, file, panel, &time)?;
            draw_histogram(&histogram, panel)?;
        }
        root.present().map_err(said)?;
    }
    Ok(text)
}

fn said(error: impl Display) -> String {
    error.to_string()
}

/// The colour of part `index`; VMs that are alike differ in how light they are.
fn colour(index: usize, vm: usize, vms: usize) -> RGBColor {
    // Steps of the golden angle give hues that are far apart, however many there are.
    let hue = (0.58 + index as f64 * 0.381_966) % 1.0;
    let lightness = match vms {
        0 | 1 => 0.48,
        count => 0.36 + 0.28 * vm as f64 / (count - 1) as f64,
    };
    let (red, green, blue) = HSLColor(hue, 0.62, lightness).rgb();
    RGBColor(red, green, blue)
}

fn draw_caption(area: &Area<'_>, file: &ScenarioFile, panel: &Panel<'_>) -> Drawn<()> {
    let title = format!(
        "{}, seed {}: who ran where",
        panel.outcome.policy, panel.outcome.seed
    );
    area.draw(&Text::new(title, (10, 8), ("sans-serif", 18)))
        .map_err(said)?;
    let mut x = 10;
    for (index, (name, vms)) in file.parts().enumerate() {
        if index == MOST_NAMES {
            let rest = format!("and {} more", file.parts().count() - MOST_NAMES);
            return area.draw(&Text::new(rest, (x, 44), SMALL)).map_err(said);
        }
        let label = match vms.len() {
            1 => name.to_owned(),
            count => format!("{name} x{count}"),
        };
        let middle = colour(index, vms.len() / 2, vms.len());
        area.draw(&Rectangle::new([(x, 44), (x + 12, 56)], middle.filled()))
            .map_err(said)?;
        let width = 30 + 8 * label.len() as i32;
        area.draw(&Text::new(label, (x + 17, 44), SMALL))
            .map_err(said)?;
        x += width;
    }
    Ok(())
}

/// How pCPUs are put into lanes.
#[derive(Clone, Copy)]
struct Lanes {
    count: usize,
    pcpus: usize,
    /// So many pCPUs share one.
    each: usize,
}

impl Lanes {
    fn of(pcpus: u16) -> Self {
        let pcpus = usize::from(pcpus);
        let each = pcpus.div_ceil(MOST_LANES);
        Self {
            count: pcpus.div_ceil(each),
            pcpus,
            each,
        }
    }

    /// Which pCPUs lane `lane` has.
    fn name(self, lane: usize) -> String {
        let first = lane * self.each;
        let last = (first + self.each).min(self.pcpus) - 1;
        match self.each {
            1 => format!("pcpu{first}"),
            _ => format!("pcpu{first}-{last}"),
        }
    }
}

/// A part of a lane with one colour: its columns, the VM, and how much of the time somebody ran.
#[derive(Debug, PartialEq)]
struct Run {
    columns: Range<usize>,
    vm: usize,
    shade: u64,
}

/// What each lane shows of `stretches` in `time`; `vm_of` says whose a vCPU is.
fn runs(stretches: &[Stretch], lanes: Lanes, time: &Range<u64>, vm_of: &[usize]) -> Vec<Vec<Run>> {
    let column_ns = ((time.end - time.start) as f64 / COLUMNS as f64).max(1.0);
    let edge = |column: usize| time.start + (column as f64 * column_ns) as u64;
    // For each column of each lane, how long each VM ran.
    let mut ran: Vec<BTreeMap<(usize, usize), u64>> = vec![BTreeMap::new(); lanes.count];
    for stretch in stretches {
        let (start, end) = (
            stretch.start.max(time.start),
            (stretch.start + stretch.duration).min(time.end),
        );
        let vm = vm_of[stretch.vcpu.index()];
        let first = (start.saturating_sub(time.start) as f64 / column_ns) as usize;
        for column in first.. {
            let (from, to) = (start.max(edge(column)), end.min(edge(column + 1)));
            if from >= end {
                break;
            }
            *ran[stretch.pcpu.index() / lanes.each]
                .entry((column, vm))
                .or_default() += to.saturating_sub(from);
        }
    }
    ran.into_iter()
        .map(|ran| merged(&ran, column_ns * lanes.each as f64))
        .collect()
}

/// Columns that look alike, as one.
fn merged(ran: &BTreeMap<(usize, usize), u64>, column_ns: f64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut rest = ran.iter().peekable();
    while let Some(((column, vm), ns)) = rest.next() {
        let (mut longest, mut sum) = ((*ns, *vm), *ns);
        while let Some(((_, vm), ns)) = rest.next_if(|((next, _), _)| next == column) {
            longest = longest.max((*ns, *vm));
            sum += *ns;
        }
        let shade = ((sum as f64 / column_ns * SHADES as f64).round() as u64).min(SHADES);
        if shade == 0 {
            continue;
        }
        match runs.last_mut() {
            Some(last)
                if last.columns.end == *column && (last.vm, last.shade) == (longest.1, shade) =>
            {
                last.columns.end += 1
            }
            _ => runs.push(Run {
                columns: *column..column + 1,
                vm: longest.1,
                shade,
            }),
        }
    }
    runs
}

fn draw_lanes(
    area: &Area<'_>,
    file: &ScenarioFile,
    panel: &Panel<'_>,
    time: &Range<u64>,
) -> Drawn<()> {
    let lanes = Lanes::of(panel.scenario.topology.pcpus);
    let vms = panel.scenario.vms.iter().enumerate();
    let vm_of: Vec<usize> = vms
        .flat_map(|(vm, spec)| (0..spec.vcpus).map(move |_| vm))
        .collect();
    let colours: Vec<RGBColor> = file
        .parts()
        .enumerate()
        .flat_map(|(part, (_, vms))| (0..vms.len()).map(move |vm| colour(part, vm, vms.len())))
        .collect();
    let ms = |ns: f64| ns / 1e6;
    let (start, end) = (ms(time.start as f64), ms(time.end as f64));
    let mut chart = ChartBuilder::on(area)
        .margin_right(20)
        .x_label_area_size(40)
        .y_label_area_size(100)
        .build_cartesian_2d(start..end, 0.0..lanes.count as f64)
        .map_err(said)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("ms")
        .x_labels(12)
        .y_labels(0)
        .label_style(SMALL)
        .axis_desc_style(SMALL)
        .draw()
        .map_err(said)?;
    let right = TextStyle::from(SMALL).pos(Pos::new(HPos::Right, VPos::Center));
    // pCPU 0 is at the top.
    let below = |lane: usize| (lanes.count - 1 - lane) as f64;
    for lane in 0..lanes.count {
        let (x, y) = chart.backend_coord(&(start, below(lane) + 0.5));
        let (left, top) = area.get_pixel_range();
        let place = (x - left.start - 8, y - top.start);
        area.draw_text(&lanes.name(lane), &right, place)
            .map_err(said)?;
    }
    let step = (end - start) / COLUMNS as f64;
    let runs = runs(&panel.outcome.stretches, lanes, time, &vm_of);
    for (lane, runs) in runs.into_iter().enumerate() {
        let rectangles = runs.into_iter().map(|run| {
            let edge = |column: usize| start + step * column as f64;
            let corners = [
                (edge(run.columns.start), below(lane)),
                (edge(run.columns.end), below(lane) + 1.0),
            ];
            let colour = colours[run.vm].mix(run.shade as f64 / SHADES as f64);
            let mut rectangle = Rectangle::new(corners, colour.filled());
            // A gap between the lanes.
            rectangle.set_margin(1, 1, 0, 0);
            rectangle
        });
        chart.draw_series(rectangles).map_err(said)?;
    }
    Ok(())
}

/// How many of 100 wake-ups took how long: for each bar its number, counted from one nanosecond.
fn bars(histogram: &Histogram) -> BTreeMap<i32, f64> {
    let mut bars = BTreeMap::new();
    for (from, to, count) in histogram.buckets() {
        let middle = ((from + to) as f64 / 2.0).max(1.0);
        let bar = (middle.log2() * BARS).floor() as i32;
        *bars.entry(bar).or_default() += count as f64 * 100.0 / histogram.count() as f64;
    }
    bars
}

fn draw_histogram(area: &Area<'_>, panel: &Panel<'_>) -> Drawn<()> {
    let parts = panel.summary.parts.iter().enumerate();
    let woken: Vec<_> = parts
        .filter(|(_, part)| part.wakeup.count() > 0)
        .map(|(index, part)| (colour(index, part.vms / 2, part.vms), bars(&part.wakeup)))
        .collect();
    let all = || woken.iter().flat_map(|(_, bars)| bars.keys().copied());
    let (Some(first), Some(last)) = (all().min(), all().max()) else {
        let nobody = Text::new("Nobody waited to be woken.", (100, 20), SMALL);
        return area.draw(&nobody).map_err(said);
    };
    let us = |bar: i32| (f64::from(bar) / BARS).exp2() / 1e3;
    let highest = woken
        .iter()
        .flat_map(|(_, bars)| bars.values().copied())
        .fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("from wake-up to run", SMALL)
        .margin_right(20)
        .x_label_area_size(45)
        .y_label_area_size(100)
        .build_cartesian_2d((us(first)..us(last + 1)).log_scale(), 0.0..highest * 1.05)
        .map_err(said)?;
    chart
        .configure_mesh()
        .x_desc("us")
        .y_desc("% of wake-ups")
        .label_style(SMALL)
        .axis_desc_style(SMALL)
        .x_label_formatter(&|us| format!("{us}"))
        .y_label_formatter(&|percent| format!("{percent:.0}"))
        .draw()
        .map_err(said)?;
    for (colour, bars) in &woken {
        let height = |bar: i32| bars.get(&bar).copied().unwrap_or(0.0);
        let steps =
            (first..=last).flat_map(|bar| [(us(bar), height(bar)), (us(bar + 1), height(bar))]);
        let outline = LineSeries::new(steps, colour.stroke_width(2));
        chart.draw_series(outline).map_err(said)?;
    }
    Ok(())
}
