//! Nothing but tests: they hold the tree to the rules that ARCHITECTURE.md states.
