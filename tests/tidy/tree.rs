//! What the rules look at: the text files of a repository, and what stands in its Rust files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, iter};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// The tracked text files of a repository, and what stands in the Rust files below `src/`.
pub(crate) struct Tree {
    pub(crate) texts: BTreeMap<String, String>,
    pub(crate) sources: BTreeMap<String, Source>,
}

/// One Rust file without its tests.
#[derive(Default)]
pub(crate) struct Source {
    /// Every path written in the file, made absolute with the file's own imports, and its line.
    pub(crate) paths: Vec<(usize, Vec<String>)>,
    /// Methods called, by name.
    pub(crate) methods: Vec<(usize, String)>,
    /// Name, first line and number of lines of each function.
    pub(crate) functions: Vec<(String, usize, usize)>,
    /// `mod name;` in order.
    pub(crate) modules: Vec<(usize, String)>,
    /// `#[cfg(test)] mod name;`: these files are tests.
    test_modules: Vec<String>,
    pub(crate) test_lines: usize,
}

impl Tree {
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self::new(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    fn new(texts: BTreeMap<String, String>) -> Self {
        let mut sources: BTreeMap<String, Source> = texts
            .iter()
            .filter(|(path, _)| path.starts_with("src/") && path.ends_with(".rs"))
            .map(|(path, text)| (path.clone(), read_source(path, text)))
            .collect();
        let tests: BTreeSet<String> = sources
            .iter()
            .flat_map(|(path, source)| source.test_modules.iter().map(|name| child_file(path, name)))
            .collect();
        sources.retain(|path, _| !tests.contains(path) && !path.ends_with("/tests.rs") && !path.contains("/tests/"));
        Self { texts, sources }
    }

    /// This repository: what git tracks or would track; without git, every file outside build folders.
    pub(crate) fn here() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let names = git_files(&root).unwrap_or_else(|| walked_files(&root));
        let read = |name: String| {
            let bytes = fs::read(root.join(&name)).ok()?;
            let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
            Some((name, text))
        };
        Self::new(names.into_iter().filter_map(read).collect())
    }
}

fn git_files(root: &Path) -> Option<Vec<String>> {
    let args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let out = Command::new("git").arg("-C").arg(root).args(args).output().ok().filter(|out| out.status.success())?;
    let names = String::from_utf8(out.stdout).ok()?;
    Some(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn walked_files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && name != ".git" && !name.starts_with("target") && !name.starts_with("result") {
                folders.push(path);
            } else if kind.is_file() {
                found.extend(path.strip_prefix(root).ok().map(|path| path.to_string_lossy().into_owned()));
            }
        }
    }
    found
}

/// The file of `mod name;` written in `path`.
fn child_file(path: &str, name: &str) -> String {
    let stem =
        path.strip_suffix("mod.rs").or_else(|| path.strip_suffix("lib.rs")).or_else(|| path.strip_suffix("main.rs"));
    match stem {
        Some(folder) => format!("{folder}{name}.rs"),
        None => format!("{}/{name}.rs", path.trim_end_matches(".rs")),
    }
}

/// `src/pool/limits.rs` is `crate::pool::limits`.
fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let names = inner.split('/').filter(|name| !matches!(*name, "mod" | "lib" | "main"));
    iter::once("crate").chain(names).map(str::to_owned).collect()
}

/// The first module below the crate: the part that a file belongs to.
pub(crate) fn part_of(path: &str) -> &str {
    let inner = path.trim_start_matches("src/");
    inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
}

/// Drivers are files named `io.rs`, or stand in a folder `io/`.
pub(crate) fn is_driver(path: &str) -> bool {
    path.ends_with("/io.rs") || path.contains("/io/")
}

pub(crate) fn is_pure(path: &str) -> bool {
    !is_driver(path) && !matches!(part_of(path), "net" | "sys" | "daemon" | "clock" | "main")
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading one Rust file.

struct Reader {
    module: Vec<String>,
    imports: BTreeMap<String, Vec<String>>,
    source: Source,
}

fn read_source(path: &str, text: &str) -> Source {
    let file = syn::parse_file(text).map_err(|error| format!("{path}: {error}")).unwrap();
    let mut reader = Reader { module: module_of(path), imports: BTreeMap::new(), source: Source::default() };
    reader.visit_file(&file);
    let Reader { imports, mut source, .. } = reader;
    for (_, path) in &mut source.paths {
        if let Some(target) = path.first().and_then(|first| imports.get(first)) {
            path.splice(0..1, target.iter().cloned());
        }
    }
    source
}

pub(crate) fn line(span: Span) -> usize {
    span.start().line
}

fn lines(span: Span) -> usize {
    span.end().line - span.start().line + 1
}

/// `#[test]`, `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn is_test(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|attr| {
        let syn::Meta::List(list) = &attr.meta else { return attr.path().is_ident("test") };
        let tokens = list.tokens.to_string();
        attr.path().is_ident("cfg") && (tokens == "test" || tokens.starts_with("all (test"))
    })
}

fn attrs_of(item: &syn::Item) -> &[syn::Attribute] {
    use syn::Item;
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

impl Reader {
    /// Resolves `crate`, `self` and `super`; what imports stand for is known only at the end of the file.
    fn absolute(&self, path: Vec<String>) -> Vec<String> {
        let ups = path.iter().take_while(|name| *name == "super").count();
        let rest = |skip: usize| path.get(skip..).unwrap_or_default().to_vec();
        let base = |len: usize| self.module.get(..len).unwrap_or_default().to_vec();
        match path.first().map(String::as_str) {
            Some("pgtandem") => [vec!["crate".to_owned()], rest(1)].concat(),
            Some("self") => {
                let ups = path.iter().skip(1).take_while(|name| *name == "super").count();
                [base(self.module.len().saturating_sub(ups)), rest(1 + ups)].concat()
            }
            Some("super") => [base(self.module.len().saturating_sub(ups)), rest(ups)].concat(),
            _ => path,
        }
    }

    fn found(&mut self, line: usize, path: Vec<String>) {
        let path = self.absolute(path);
        self.source.paths.push((line, path));
    }

    fn use_tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let (name, alias) = match tree {
            syn::UseTree::Path(path) => {
                return self.use_tree(&path.tree, &[before, &[path.ident.to_string()]].concat());
            }
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.use_tree(tree, before));
            }
            syn::UseTree::Glob(_) => ("*".to_owned(), None),
            syn::UseTree::Name(name) => (name.ident.to_string(), Some(name.ident.to_string())),
            syn::UseTree::Rename(name) => (name.ident.to_string(), Some(name.rename.to_string())),
        };
        let full = if name == "self" { before.to_vec() } else { [before, &[name]].concat() };
        let alias = if alias.as_deref() == Some("self") { before.last().cloned() } else { alias };
        let full = self.absolute(full);
        // A trailing `self` marks an import, so that `use tokio;` differs from a variable named `tokio`.
        self.source.paths.push((line(tree.span()), [full.as_slice(), &["self".to_owned()]].concat()));
        if let Some(alias) = alias.filter(|alias| Some(alias) != full.first()) {
            self.imports.insert(alias, full);
        }
    }

    /// Paths and methods in what stands between a macro's brackets, which syn leaves unparsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut first, mut colons) = (0, 0);
        for tree in tokens {
            match tree {
                TokenTree::Ident(ident) => {
                    if colons != 2 && !path.is_empty() {
                        self.found(first, std::mem::take(&mut path));
                    }
                    if path.is_empty() {
                        first = line(ident.span());
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    if !path.is_empty() {
                        self.found(first, std::mem::take(&mut path));
                    }
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        if !path.is_empty() {
            self.found(first, path);
        }
    }

    fn function(&mut self, sig: &syn::Signature, end: Span) {
        let start = line(sig.fn_token.span());
        self.source.functions.push((sig.ident.to_string(), start, end.end().line - start + 1));
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test(attrs_of(item)) {
            return visit::visit_item(self, item);
        }
        self.source.test_lines += lines(item.span());
        if let syn::Item::Mod(module) = item
            && module.content.is_none()
        {
            self.source.test_modules.push(module.ident.to_string());
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let name = module.ident.to_string();
        self.source.modules.push((line(module.span()), name.clone()));
        let full = [self.module.as_slice(), std::slice::from_ref(&name)].concat();
        self.imports.insert(name.clone(), full);
        self.module.push(name);
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.found(line(path.span()), names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        visit::visit_macro(self, mac);
        self.tokens(mac.tokens.clone());
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.source.methods.push((line(call.method.span()), call.method.to_string()));
        visit::visit_expr_method_call(self, call);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if is_test(&item.attrs) {
            self.source.test_lines += lines(item.span());
            return;
        }
        self.function(&item.sig, item.block.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block.span());
        }
        visit::visit_trait_item_fn(self, item);
    }
}
