//! docs/compatibility.md is what the program says.

/// With `UPDATE_DOCS=1` it is written anew.
#[test]
fn the_page_is_what_the_program_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compatibility.md");
    let page = pgtandem::config::compat::page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        page,
        "UPDATE_DOCS=1 cargo test --test compat_page writes it anew"
    );
}
