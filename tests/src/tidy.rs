//! The rules of the repository, each as a test. The rules themselves are xtask's, so that
//! `cargo xtask ci` can ask for them before anything else is built.

use xtask::repo::{Repo, root};
use xtask::tidy::RULES;

fn holds(name: &str) {
    let rule = RULES
        .iter()
        .find(|rule| rule.name == name)
        .expect("the rule is in RULES");
    let repo = Repo::read(&root()).expect("the workspace is readable");
    assert!(!repo.sources.is_empty(), "there are sources to look at");
    let faults = (rule.faults)(&repo);
    assert!(
        faults.is_empty(),
        "rule {name}:\n  {}\nhelp: {}",
        faults.join("\n  "),
        rule.fix
    );
}

/// Makes a test of each rule, and one that none was left out.
macro_rules! tests_of_rules {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*

        #[test]
        fn each_rule_is_tested() {
            let names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
            assert_eq!(names, [$(stringify!($name)),*], "list the rules here in the order of RULES");
        }
    };
}

tests_of_rules! {
    burn_free
    models
    environment
    global_state
    one_backward
    file_size
    file_name
    ascii
    no_unsafe
    lints
    crate_doc
}
