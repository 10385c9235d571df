//! Program of the benchmark: runs one part, which the arguments name.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    node_cache_bench::run(&arguments);
}
