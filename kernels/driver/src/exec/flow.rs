//! Control flow: where lanes that a branch parts meet again.

use std::collections::HashMap;

use crate::ptx::{Function, Instruction, Operand};

/// Where control goes after an instruction.
pub enum Next {
    /// On.
    Falls,
    /// Nowhere: the function ends for these lanes.
    Ends,
    /// To the instructions after these labels; and on, if the branch is guarded.
    Branches(Vec<usize>),
}

/// How an instruction ends, its guard aside.
pub fn next(f: &Function, i: &Instruction) -> Next {
    let label = |o: &Operand| match o {
        Operand::Label(l) => f.labels.get(*l).copied(),
        _ => None,
    };
    match i.opcode.as_str() {
        "bra" => Next::Branches(i.operands.iter().filter_map(label).collect()),
        "brx" => {
            let table = i.operands.iter().find_map(|o| match o {
                Operand::Label(l) => f.branch_targets.iter().find(|(at, _)| at == l),
                _ => None,
            });
            let targets = table.map_or(&[][..], |(_, t)| t);
            Next::Branches(targets.iter().map(|&l| f.labels[l]).collect())
        }
        "ret" | "exit" | "trap" => Next::Ends,
        _ => Next::Falls,
    }
}

/// For every branch the immediate post-dominator: the first instruction that all its lanes come to again (the number
/// of instructions stands for the end of the function).
pub fn joins(f: &Function) -> HashMap<usize, usize> {
    let end = f.body.len();
    let mut leaders: Vec<usize> = f.labels.iter().copied().filter(|&l| l <= end).collect();
    leaders.push(0);
    leaders.push(end);
    for (at, i) in f.body.iter().enumerate() {
        if !matches!(next(f, i), Next::Falls) {
            leaders.push(at + 1);
        }
    }
    leaders.sort_unstable();
    leaders.dedup();
    let exit = leaders.len() - 1;
    let block_of = |at: usize| leaders.partition_point(|&l| l <= at) - 1;
    let successors: Vec<Vec<usize>> = (0..exit)
        .map(|b| {
            let last = &f.body[leaders[b + 1] - 1];
            let mut to = match next(f, last) {
                Next::Falls => vec![b + 1],
                Next::Ends => vec![exit],
                Next::Branches(targets) => targets.into_iter().map(block_of).collect(),
            };
            if last.guard.is_some() && !to.contains(&(b + 1)) {
                to.push(b + 1);
            }
            to
        })
        .collect();
    let ipdom = post_dominators(&successors, exit);
    let mut joins = HashMap::new();
    for b in 0..exit {
        let last = leaders[b + 1] - 1;
        if matches!(next(f, &f.body[last]), Next::Branches(_)) {
            joins.insert(last, leaders[ipdom[b]]);
        }
    }
    joins
}

/// Immediate post-dominators (Cooper, Harvey, Kennedy 2001, on the reversed graph). Blocks that never reach the exit,
/// in endless loops, are given an edge to it.
fn post_dominators(successors: &[Vec<usize>], exit: usize) -> Vec<usize> {
    let mut predecessors = vec![Vec::new(); exit + 1];
    for (b, to) in successors.iter().enumerate() {
        to.iter().for_each(|&t| predecessors[t].push(b));
    }
    // Postorder of the reversed graph from the exit, by an explicit stack.
    let (mut order, mut seen) = (Vec::new(), vec![false; exit + 1]);
    let mut extra = vec![false; exit + 1];
    let mut roots = vec![exit];
    loop {
        while let Some(root) = roots.pop() {
            let mut stack = vec![(root, 0)];
            seen[root] = true;
            while let Some((b, i)) = stack.pop() {
                match predecessors[b].get(i) {
                    Some(&p) => {
                        stack.push((b, i + 1));
                        if !seen[p] {
                            seen[p] = true;
                            stack.push((p, 0));
                        }
                    }
                    None => order.push(b),
                }
            }
        }
        match seen.iter().rposition(|s| !s) {
            Some(b) => {
                extra[b] = true;
                roots.push(b);
            }
            None => break,
        }
    }
    // With endless loops the exit is not last in the postorder: it must be the root of the tree.
    order.retain(|&b| b != exit);
    order.push(exit);
    let mut number = vec![0; exit + 1];
    order.iter().enumerate().for_each(|(n, &b)| number[b] = n);
    let mut ipdom = vec![usize::MAX; exit + 1];
    ipdom[exit] = exit;
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev().skip(1) {
            let mut best = if extra[b] { exit } else { usize::MAX };
            for &s in &successors[b] {
                if ipdom[s] == usize::MAX {
                    continue;
                }
                let mut other = s;
                if best == usize::MAX {
                    best = other;
                }
                while best != other {
                    while number[best] < number[other] {
                        best = ipdom[best];
                    }
                    while number[other] < number[best] {
                        other = ipdom[other];
                    }
                }
            }
            if best != ipdom[b] && best != usize::MAX {
                ipdom[b] = best;
                changed = true;
            }
        }
    }
    // A block that nothing reached from the exit (it cannot be: every block has a root) would join at the end.
    ipdom.iter_mut().for_each(|d| *d = (*d).min(exit));
    ipdom
}

#[cfg(test)]
mod tests {
    use super::joins;
    use crate::ptx::Module;

    fn joins_of(body: &str) -> Vec<(usize, usize)> {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {{ .reg .pred %p<9>; {body} }}"
        );
        let module = Module::parse(&text).unwrap();
        let mut all: Vec<_> = joins(&module.functions[0]).into_iter().collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn diamonds_loops_and_early_exits() {
        // 0 @p bra A; 1 nop; 2 bra B; A: 3 nop; B: 4 ret
        let diamond = "@%p1 bra A; membar.gl; bra B; A: membar.gl; B: ret;";
        assert_eq!(joins_of(diamond), [(0, 4), (2, 4)]);
        // L: 0 nop; 1 @p bra L; 2 ret
        assert_eq!(joins_of("L: membar.gl; @%p1 bra L; ret;"), [(1, 2)]);
        // 0 @p bra A; 1 exit; A: 2 ret: the sides never meet before the end
        assert_eq!(joins_of("@%p1 bra A; exit; A: ret;"), [(0, 3)]);
        // an endless loop with a way out in the middle, and one without
        assert_eq!(joins_of("L: @%p1 bra A; bra L; A: ret;"), [(0, 2), (1, 0)]);
        assert_eq!(joins_of("L: membar.gl; bra L;"), [(1, 2)]);
    }
}
