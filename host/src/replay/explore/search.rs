//! The search: breadth first, so that what is found first is the shortest.
//!
//! Worlds are the nodes of a graph, steps its edges. Every edge is in the graph,
//! also those that were looked up instead of run, so nothing is lost by a
//! reduction and the schedules that were covered can be counted.

use std::collections::HashMap;

use super::invariant::fault_of_world;
use super::report::{Report, Violation};
use super::step::Step;
use super::turns::Turns;
use super::world::State;
use super::{Explorer, Model};
use crate::core::ids::Hash;
use crate::replay::life::Life;

struct Node<M> {
    state: State<M>,
    /// From which world it was reached first, and by which of its steps.
    from: Option<(usize, Step)>,
    depth: u32,
    steps: Vec<(Step, usize)>,
    /// Nothing can happen in it.
    is_last: bool,
}

struct Graph<'e, M> {
    explorer: &'e Explorer<M>,
    nodes: Vec<Node<M>>,
    known: HashMap<Hash, usize>,
    turns: Turns,
    report: Report,
}

/// Explores from `first` until everything is seen, a bound is reached or an
/// assertion is broken.
pub(super) fn search<M: Model>(explorer: &Explorer<M>, first: State<M>, turns: Turns) -> Report {
    let mut graph = Graph { explorer, nodes: Vec::new(), known: HashMap::new(), turns, report: Report::default() };
    let mut violation = graph.meet(first, None).err();
    let mut next = 0;
    while violation.is_none() && next < graph.nodes.len() {
        if graph.nodes.len() > explorer.bounds.worlds {
            graph.report.bounded += (graph.nodes.len() - next) as u64;
            break;
        }
        violation = graph.go_on_from(next).err();
        next += 1;
    }
    graph.finish(violation.map(|violation| *violation))
}

impl<M: Model> Graph<'_, M> {
    /// Takes every step that is possible in a world.
    fn go_on_from(&mut self, number: usize) -> Result<(), Box<Violation>> {
        let node = &self.nodes[number];
        let steps = node.state.steps(self.explorer);
        if steps.is_empty() {
            if !node.state.has_ended() && !self.explorer.waiting_is_an_end {
                let waits = waiting(&node.state);
                return Err(self.violation(format!("nothing can happen any more, and {waits}"), number, None));
            }
            self.nodes[number].is_last = true;
            return Ok(());
        }
        if node.depth >= self.explorer.bounds.depth {
            self.report.bounded += 1;
            return Ok(());
        }
        for step in steps {
            let target = match self.other_order(number, &step) {
                Some(target) => {
                    self.report.steps_looked_up += 1;
                    target
                }
                None => self.take(number, &step)?,
            };
            self.nodes[number].steps.push((step, target));
        }
        Ok(())
    }

    fn take(&mut self, number: usize, step: &Step) -> Result<usize, Box<Violation>> {
        self.report.steps_run += 1;
        match self.nodes[number].state.after(step, self.explorer, &mut self.turns) {
            Ok(state) => self.meet(state, Some((number, step.clone()))),
            Err(fault) => Err(self.violation(fault, number, Some(step))),
        }
    }

    /// The world that `step` leads to, if the one before got here by a step that
    /// commutes with it, and it was taken there.
    fn other_order(&self, number: usize, step: &Step) -> Option<usize> {
        if !self.explorer.reductions.commute {
            return None;
        }
        let (before, got_here) = self.nodes[number].from.as_ref()?;
        let before = &self.nodes[*before];
        let beside = before.target(step)?;
        if !before.state.commute(step, got_here) {
            return None;
        }
        self.nodes[beside].target(got_here)
    }

    /// The number of a world, which is new or known.
    fn meet(&mut self, state: State<M>, from: Option<(usize, Step)>) -> Result<usize, Box<Violation>> {
        if self.explorer.reductions.recognise {
            let number = *self.known.entry(state.key()).or_insert(self.nodes.len());
            if number < self.nodes.len() {
                self.report.met_again += 1;
                return Ok(number);
            }
        }
        let number = self.nodes.len();
        let depth = from.as_ref().map_or(0, |(before, _)| self.nodes[*before].depth + 1);
        self.report.ends += u64::from(state.has_ended());
        let fault = fault_of_world(self.explorer, &state, &self.turns);
        self.nodes.push(Node { state, from, depth, steps: Vec::new(), is_last: false });
        match fault {
            Some(fault) => Err(self.violation(fault, number, None)),
            None => Ok(number),
        }
    }

    /// What was found in a world, or on the way out of it by `step`.
    fn violation(&self, what: String, number: usize, step: Option<&Step>) -> Box<Violation> {
        let state = &self.nodes[number].state;
        let mut schedule = vec![];
        schedule.extend(step.map(|step| state.describe(step, None, self.explorer)));
        let mut after = number;
        while let Some((before, step)) = &self.nodes[after].from {
            let (from, to) = (&self.nodes[*before].state, &self.nodes[after].state);
            schedule.push(from.describe(step, Some(to), self.explorer));
            after = *before;
        }
        schedule.reverse();
        let recording = |life: &Life| {
            let bytes = self.explorer.subjects.of(life.execution.module).bytes.to_vec();
            life.recording(Some(bytes))
        };
        let recordings = state.lives.values().filter_map(|turned| recording(&turned.life).ok()).collect();
        Box::new(Violation { what, schedule, model: format!("{:?}", state.model), recordings })
    }

    fn finish(mut self, violation: Option<Violation>) -> Report {
        self.report.worlds = self.nodes.len() as u64;
        (self.report.schedules, self.report.schedules_cut) = self.schedules();
        (self.report.turns_run, self.report.turns_known) = (self.turns.run, self.turns.known);
        self.report.violation = violation;
        self.report
    }

    /// Ways from the first world to those in which nothing can happen, and to those
    /// in which nothing was tried.
    fn schedules(&self) -> (f64, f64) {
        let mut ways = vec![0.0; self.nodes.len()];
        let mut missing = vec![0_u32; self.nodes.len()];
        self.nodes.iter().flat_map(|node| &node.steps).for_each(|(_, target)| missing[*target] += 1);
        let (mut covered, mut cut) = (0.0, 0.0);
        let mut ready = vec![0];
        ways[0] = 1.0;
        // Every step uses something up, so there is no way back to a world.
        while let Some(number) = ready.pop() {
            let node = &self.nodes[number];
            match (node.is_last, node.steps.is_empty()) {
                (true, _) => covered += ways[number],
                (false, true) => cut += ways[number],
                (false, false) => {}
            }
            for (_, target) in &node.steps {
                ways[*target] += ways[number];
                missing[*target] -= 1;
                if missing[*target] == 0 {
                    ready.push(*target);
                }
            }
        }
        (covered, cut)
    }
}

impl<M> Node<M> {
    fn target(&self, step: &Step) -> Option<usize> {
        self.steps.iter().find(|(known, _)| known == step).map(|(_, target)| *target)
    }
}

fn waiting<M: Model>(state: &State<M>) -> String {
    let waits = state.lives.values().filter(|turned| turned.life.execution.end.is_none());
    let waits = waits.map(|turned| {
        let pending: Vec<String> =
            turned.life.execution.pending.iter().map(|(operation, what)| format!("#{operation} {what:?}")).collect();
        let what = if pending.is_empty() { "nothing".to_owned() } else { pending.join(", ") };
        format!("{} waits for {what}", turned.life.id())
    });
    waits.collect::<Vec<_>>().join("; ")
}
