//! A layered drawing of a DAG, left to right: layers by longest path, order within layers by barycentres, heights by
//! least squares. Long edges run through a bend in each layer they cross, so that they go around nodes; the long edges of one
//! node share their bends, so that they run as one line until they part.

use std::collections::BTreeMap;

/// Sweeps over the layers; orders settle after a few.
const SWEEPS: usize = 12;

/// Where everything stands: the layer, and the height of its middle in units of the caller's sizes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Layout {
    /// Layer of each node.
    pub(super) layer: Vec<usize>,
    /// Middle of each node.
    pub(super) y: Vec<f64>,
    /// For each edge its bends, as (layer, height), left to right.
    pub(super) bends: Vec<Vec<(usize, f64)>>,
    /// How many layers there are.
    pub(super) layers: usize,
    /// The lower end of the lowest node.
    pub(super) height: f64,
}

/// The graph with a vertex for each node and each bend.
struct Layered {
    layer: Vec<usize>,
    size: Vec<f64>,
    /// Neighbours to the left and to the right.
    left: Vec<Vec<usize>>,
    right: Vec<Vec<usize>>,
    rows: Vec<Vec<usize>>,
}

/// Returns the drawing of `sizes.len()` nodes with these heights (gaps included). Edges go from a lower to a higher
/// number.
pub(super) fn layout(sizes: &[f64], edges: &[(usize, usize)], bend_size: f64) -> Layout {
    let layer = layers(sizes.len(), edges);
    let (mut graph, bends) = Layered::new(sizes, edges, &layer, bend_size);
    graph.order();
    let y = graph.heights();
    let bends = bends.into_iter().map(|b| b.into_iter().map(|v| (graph.layer[v], y[v])).collect());
    Layout {
        layers: graph.rows.len(),
        height: y.iter().zip(&graph.size).map(|(y, size)| y + size / 2.0).fold(0.0, f64::max),
        bends: bends.collect(),
        y: y[..sizes.len()].to_vec(),
        layer,
    }
}

fn layers(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut layer = vec![0; nodes];
    let mut sorted = edges.to_vec();
    sorted.sort_unstable();
    for &(from, to) in &sorted {
        layer[to] = layer[to].max(layer[from] + 1);
    }
    // Nodes that feed more than they are fed move towards what they feed, which shortens edges.
    let (mut feeds, mut fed) = (vec![Vec::new(); nodes], vec![0; nodes]);
    for &(from, to) in edges {
        feeds[from].push(to);
        fed[to] += 1;
    }
    for node in (0..nodes).rev() {
        if feeds[node].len() > fed[node] {
            let nearest = feeds[node].iter().map(|to| layer[*to]).min();
            layer[node] = nearest.map_or(layer[node], |nearest| nearest - 1);
        }
    }
    layer
}

impl Layered {
    fn new(
        sizes: &[f64],
        edges: &[(usize, usize)],
        layer: &[usize],
        bend_size: f64,
    ) -> (Self, Vec<Vec<usize>>) {
        let count = layer.iter().max().map_or(0, |deepest| deepest + 1);
        let mut graph = Self {
            layer: layer.to_vec(),
            size: sizes.to_vec(),
            left: vec![Vec::new(); sizes.len()],
            right: vec![Vec::new(); sizes.len()],
            rows: vec![Vec::new(); count],
        };
        let mut shared = BTreeMap::new();
        let bends = edges
            .iter()
            .map(|&(from, to)| graph.connect(from, to, bend_size, &mut shared))
            .collect();
        for vertex in 0..graph.layer.len() {
            graph.rows[graph.layer[vertex]].push(vertex);
        }
        (graph, bends)
    }

    /// Joins two nodes through bends, those that `from` has already first. `shared` holds them by node and layer.
    fn connect(
        &mut self,
        from: usize,
        to: usize,
        bend_size: f64,
        shared: &mut BTreeMap<(usize, usize), usize>,
    ) -> Vec<usize> {
        let mut bends = Vec::new();
        let mut last = from;
        for layer in self.layer[from] + 1..self.layer[to] {
            let bend = *shared.entry((from, layer)).or_insert_with(|| {
                let bend = self.layer.len();
                self.layer.push(layer);
                self.size.push(bend_size);
                self.left.push(vec![last]);
                self.right.push(Vec::new());
                self.right[last].push(bend);
                bend
            });
            bends.push(bend);
            last = bend;
        }
        self.right[last].push(to);
        self.left[to].push(last);
        bends
    }

    /// Sorts every layer by the mean place of its neighbours, there and back, and keeps the order with the fewest
    /// crossings.
    fn order(&mut self) {
        let mut best = (self.crossings(), self.rows.clone());
        let mut place = self.places();
        for sweep in 0..SWEEPS {
            let forward = sweep % 2 == 0;
            let count = self.rows.len();
            for step in 1..count {
                let row = if forward { step } else { count - 1 - step };
                self.sort_row(row, forward, &mut place);
            }
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.rows.clone());
            }
        }
        self.rows = best.1;
    }

    fn sort_row(&mut self, row: usize, by_left: bool, place: &mut [f64]) {
        let neighbours = if by_left { &self.left } else { &self.right };
        let key = |vertex: usize| {
            let near = &neighbours[vertex];
            match near.is_empty() {
                true => place[vertex],
                false => near.iter().map(|n| place[*n]).sum::<f64>() / near.len() as f64,
            }
        };
        let members = &self.rows[row];
        let mut keyed: Vec<_> = members.iter().map(|vertex| (key(*vertex), *vertex)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.rows[row] = keyed.into_iter().map(|(_, vertex)| vertex).collect();
        note_places(&self.rows[row], place);
    }

    /// The place of each vertex in its layer, so that layers of different sizes compare.
    fn places(&self) -> Vec<f64> {
        let mut place = vec![0.0; self.layer.len()];
        self.rows.iter().for_each(|row| note_places(row, &mut place));
        place
    }

    fn crossings(&self) -> usize {
        let mut index = vec![0; self.layer.len()];
        for row in &self.rows {
            row.iter().enumerate().for_each(|(at, vertex)| index[*vertex] = at);
        }
        let crossings = |row: &Vec<usize>| {
            let mut ends = Vec::new();
            for vertex in row {
                let from = ends.len();
                ends.extend(self.right[*vertex].iter().map(|to| index[*to]));
                // Edges of one vertex never cross.
                ends[from..].sort_unstable();
            }
            inversions(&ends)
        };
        self.rows.iter().map(crossings).sum()
    }

    /// Draws every vertex towards the mean height of its neighbours, as far as its layer's order allows.
    fn heights(&self) -> Vec<f64> {
        let mut y = vec![0.0; self.layer.len()];
        for row in &self.rows {
            let mut next = 0.0;
            for vertex in row {
                y[*vertex] = next + self.size[*vertex] / 2.0;
                next += self.size[*vertex];
            }
        }
        for sweep in 0..SWEEPS * 2 {
            let forward = sweep % 2 == 0;
            for step in 0..self.rows.len() {
                let row = &self.rows[if forward { step } else { self.rows.len() - 1 - step }];
                let wanted: Vec<_> = row.iter().map(|v| self.wish(*v, &y)).collect();
                let sizes: Vec<_> = row.iter().map(|v| self.size[*v]).collect();
                for (vertex, placed) in row.iter().zip(spread(&wanted, &sizes)) {
                    y[*vertex] = placed;
                }
            }
        }
        let top = (0..y.len()).map(|v| y[v] - self.size[v] / 2.0).fold(f64::INFINITY, f64::min);
        y.iter().map(|value| value - top).collect()
    }

    fn wish(&self, vertex: usize, y: &[f64]) -> f64 {
        let near = || self.left[vertex].iter().chain(&self.right[vertex]);
        match near().count() {
            0 => y[vertex],
            count => near().map(|n| y[*n]).sum::<f64>() / count as f64,
        }
    }
}

/// Notes the place of each member of a layer, 0 to 1.
fn note_places(row: &[usize], place: &mut [f64]) {
    for (index, vertex) in row.iter().enumerate() {
        place[*vertex] = (index as f64 + 0.5) / row.len() as f64;
    }
}

/// Returns how many pairs stand in falling order, by a Fenwick tree over the values seen so far.
fn inversions(values: &[usize]) -> usize {
    let mut seen = vec![0; values.iter().max().map_or(0, |largest| largest + 2)];
    let mut count = 0;
    for (before, value) in values.iter().enumerate() {
        let mut at = value + 1;
        let mut not_larger = 0;
        while at > 0 {
            not_larger += seen[at];
            at &= at - 1;
        }
        count += before - not_larger;
        at = value + 1;
        while at < seen.len() {
            seen[at] += 1;
            at += at & at.wrapping_neg();
        }
    }
    count
}

/// Returns the places nearest to the wanted ones, by least squares, at which things of these sizes stand in this
/// order without overlap (isotonic regression by pooling neighbours).
pub(super) fn spread(wanted: &[f64], sizes: &[f64]) -> Vec<f64> {
    let mut offsets = Vec::with_capacity(wanted.len());
    let mut offset = 0.0;
    for index in 0..wanted.len() {
        if index > 0 {
            offset += (sizes[index - 1] + sizes[index]) / 2.0;
        }
        offsets.push(offset);
    }
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for (place, offset) in wanted.iter().zip(&offsets) {
        let mut pool = (place - offset, 1);
        while let Some(&(sum, count)) = pools.last() {
            if sum / count as f64 <= pool.0 / pool.1 as f64 {
                break;
            }
            pools.pop();
            pool = (pool.0 + sum, pool.1 + count);
        }
        pools.push(pool);
    }
    let means =
        pools.iter().flat_map(|&(sum, count)| std::iter::repeat_n(sum / count as f64, count));
    means.zip(offsets).map(|(mean, offset)| mean + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inversions_are_pairs_in_falling_order() {
        for values in [&[][..], &[3], &[0, 1, 1, 2], &[2, 1, 0], &[5, 0, 5, 3, 1, 0, 4]] {
            let pairs = (0..values.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
            let expected = pairs.filter(|(a, b)| values[*a] > values[*b]).count();
            assert_eq!(inversions(values), expected, "{values:?}");
        }
    }

    #[test]
    fn spread_moves_only_what_overlaps() {
        assert_eq!(spread(&[0.0, 100.0, 104.0], &[10.0; 3]), [0.0, 97.0, 107.0]);
        assert!(spread(&[], &[]).is_empty());
    }

    #[test]
    fn nodes_of_a_layer_do_not_overlap_and_edges_go_right() {
        let edges = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3), (3, 4), (0, 4), (2, 4)];
        let drawn = layout(&[50.0; 5], &edges, 12.0);
        assert_eq!(drawn.layer, [0, 1, 1, 2, 3]);
        assert!((drawn.y[1] - drawn.y[2]).abs() >= 50.0 - 1e-9);
        assert_eq!(drawn.bends.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 0, 2, 1]);
        assert_eq!(layout(&[], &[], 12.0).layers, 0);
    }

    #[test]
    fn a_source_stands_next_to_its_user() {
        assert_eq!(layout(&[10.0; 4], &[(0, 1), (1, 3), (2, 3)], 4.0).layer, [0, 1, 1, 2]);
    }
}
