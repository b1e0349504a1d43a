//! The colours of the HTML report: everybody can tell them apart, on light and on dark ground.

use tlm::report::html::{self, Page};

type Rgb = [f64; 3];

/// What is seen with normal vision and without one kind of cones: Machado, Oliveira and Fernandes, "A physiologically-based model
/// for simulation of color vision deficiency" (2009), table 1, severity 1.0.
const VISIONS: [(&str, [Rgb; 3]); 4] = [
    ("normal", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    (
        "protanopia",
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    ),
    (
        "deuteranopia",
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    ),
    (
        "tritanopia",
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ),
];

/// From linear sRGB to CIE XYZ, as parts of the white point D65.
const XYZ: [Rgb; 3] = [
    [0.4124 / 0.9505, 0.3576 / 0.9505, 0.1805 / 0.9505],
    [0.2126, 0.7152, 0.0722],
    [0.0193 / 1.089, 0.1192 / 1.089, 0.9505 / 1.089],
];

fn times(matrix: &[Rgb; 3], color: Rgb) -> Rgb {
    matrix.map(|row| row.iter().zip(color).map(|(a, b)| a * b).sum())
}

fn linear(hex: &str) -> Rgb {
    [1, 3, 5].map(|at| {
        let c = f64::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits")) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    })
}

/// CIE 1976 L*a*b*, in which 2.3 is a difference that is just seen.
fn lab(color: Rgb) -> Rgb {
    let [x, y, z] = times(&XYZ, color.map(|c| c.clamp(0.0, 1.0)))
        .map(|c| if c > 0.008856 { c.cbrt() } else { 7.787 * c + 16.0 / 116.0 });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// Contrast by WCAG 2.2.
fn contrast(a: Rgb, b: Rgb) -> f64 {
    let [a, b] = [a, b].map(|color| times(&XYZ, color)[1] + 0.05);
    a.max(b) / a.min(b)
}

#[test]
fn series_can_be_told_apart_whatever_cones_one_has() {
    let page = html::render(&Page::default()).expect("drawn");
    // Light, then dark.
    let value = |name: &str, theme: usize| {
        let rest = page.split(&format!("--{name}: ")).nth(theme + 1).expect("defined twice");
        linear(&rest[..7])
    };
    for theme in [0, 1] {
        let colors: Vec<_> = (0..7).map(|at| value(&format!("c{at}"), theme)).collect();
        for (at, color) in colors.iter().enumerate() {
            let contrast = contrast(*color, value("ground", theme));
            assert!(contrast >= 3.0, "c{at} of theme {theme}: {contrast:.2}");
            for (name, matrix) in VISIONS {
                for (other, before) in colors[..at].iter().enumerate() {
                    let [a, b] = [color, before].map(|color| lab(times(&matrix, *color)));
                    let apart = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                    assert!(apart >= 20.0, "c{other}, c{at} of theme {theme}, {name}: {apart:.1}");
                }
            }
        }
    }
}
