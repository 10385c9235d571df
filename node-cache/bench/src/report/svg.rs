//! Beginning of a chart, and what bars and lines share.

/// Left edge of the plot; names of servers stand left of it.
pub(super) const LEFT: usize = 300;
/// Height of a server's row.
pub(super) const ROW_HEIGHT: usize = 28;
pub(super) const OUR_COLOUR: &str = "#2b6cb0";

/// Returns the opening tag of a chart and its title.
pub(super) fn begin(height: usize, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 780 {height}\" font-family=\"sans-serif\" \
         font-size=\"14\">\n  <text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">{title}</text>\n"
    )
}

/// Returns the name of a server, which ends left of the plot.
pub(super) fn name(y: usize, name: &str) -> String {
    format!("  <text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{name}</text>\n", LEFT - 10)
}
