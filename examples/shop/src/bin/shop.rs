//! One service of the demo's shop. `shop --help` says how.

fn main() -> anyhow::Result<()> {
    outrigger_shop::shop_main(std::env::args_os())
}
