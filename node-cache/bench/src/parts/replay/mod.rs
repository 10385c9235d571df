//! Part `replay`: casts of resolvers under the silent limits of a provider, one after the other, in namespaces of
//! their own.
//!
//! `schedule` says what happens when, `cast` who answers, `world` who is asked. `load` sends, `answer` judges each
//! response, `limits` drops packets and counts them; `measure` and `verdict` compute, `page` and `chart` publish.

mod answer;
mod authority;
mod cast;
mod chart;
mod conduct;
mod dnstier;
mod instrument;
mod lateness;
mod limits;
mod load;
mod measure;
mod network;
mod outcome;
mod page;
mod peers;
mod schedule;
mod sockets;
mod verdict;
mod world;

use std::num::NonZero;
use std::process::exit;
use std::thread::available_parallelism;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub(crate) use authority::serve as serve_authority;
pub(crate) use schedule::Form;
pub(crate) use sockets::hold as hold_sockets;

use crate::host::processors::raise_priority_of_session;
use crate::parts::traces::mail;
use cast::Cast;
use conduct::CastRun;
use measure::percent;
use network::Network;
use schedule::Scale;
use verdict::{Figures, Goals, seconds};

/// Domains of the world. A tenth of them is delegated to an address that answers nothing.
const DOMAINS: usize = 200_000;
/// Exit code where a goal is missed, or where the figures do not agree with each other.
const EXIT_MISSED: i32 = 1;
/// Exit code of the same while the machine was too busy for anybody to say why.
const EXIT_TOO_BUSY: i32 = 3;
/// Descriptors that a resolver with thousands of queries in flight may open.
const DESCRIPTORS: u64 = 1 << 17;

/// Runs the casts of a form, or the one whose letter is given, and ends this process where a goal is missed.
pub(crate) fn run(form: Form, letter: Option<&str>) {
    let started = Instant::now();
    raise_descriptor_limit();
    raise_priority_of_session();
    let network = Network::create();
    let casts: Vec<Cast> = match letter {
        Some(letter) => Cast::ALL.into_iter().filter(|cast| cast.letter() == letter).collect(),
        None => Cast::of(form).to_vec(),
    };
    let longest = casts.iter().map(|cast| schedule::total_seconds(&cast.phases(form))).max().unwrap_or_default();
    let scale = form.scale(available_parallelism().map_or(1, NonZero::get));
    let queries = mail::trace(scale.rate as usize * longest as usize, DOMAINS, mail::Naming::Registered);
    let (mut runs, mut not_run) = (Vec::new(), Vec::new());
    for cast in casts {
        if let Some(missing) = cast.missing_program() {
            println!("({}) {} is not run: {missing} is not installed", cast.letter(), cast.name());
            not_run.push((cast, missing));
            continue;
        }
        runs.push(run_until_valid(&network, cast, form, scale, &queries));
    }
    println!("\n{}", page::table(&runs, &not_run));
    let goals = Goals::of(form, &runs);
    if form == Form::Full && letter.is_none() {
        page::publish(&runs, &not_run, &goals);
    }
    println!("{} casts in {:.0} s", runs.len(), started.elapsed().as_secs_f64());
    let faults: Vec<String> = runs.iter().flat_map(instrument::faults).collect();
    faults.iter().for_each(|fault| println!("instrument: {fault}"));
    println!("{}", goals.lines().join("\n"));
    if goals.are_reached() && faults.is_empty() {
        return;
    }
    if runs.iter().any(CastRun::is_machine_too_busy) {
        println!("void: the machine was too busy to tell");
        exit(EXIT_TOO_BUSY);
    }
    exit(EXIT_MISSED);
}

/// Runs a cast, and in the full form once more with halved load and limits where the machine was too slow for it.
fn run_until_valid(network: &Network, cast: Cast, form: Form, scale: Scale, queries: &[Vec<u8>]) -> CastRun {
    let run = conduct::run(network, cast, form, scale, queries);
    print_figures(&run);
    let Some(fault) = run.fault().filter(|_| form == Form::Full) else { return run };
    println!("({}) again with load and limits halved: {fault}", cast.letter());
    let run = conduct::run(network, cast, form, scale.halved(), queries);
    print_figures(&run);
    run
}

/// Prints the figures of each limiter, also of a cast that is void.
fn print_figures(run: &CastRun) {
    for (limited, limiter) in run.limited() {
        let Figures { counts, worst_second, interruption, .. } = Figures::of(run, limited, limiter);
        println!(
            "({}) {}: {} right, worst second {}, 99.9 % again after {}",
            run.cast.letter(),
            limiter.name(),
            percent(counts.right_share()),
            percent(worst_second),
            seconds(interruption),
        );
    }
}

fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(DESCRIPTORS).max(DESCRIPTORS);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: Some(maximum) });
}
