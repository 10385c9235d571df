//! Program of the benchmark. Its arguments name the part to run.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    node_cache_bench::run(&arguments);
}
