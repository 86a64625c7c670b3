//! How many instances the process can hold before the kernel refuses it memory maps.
//!
//! Must not: read the limit; who starts the process reads `/proc` and hands the numbers in.

/// Memory maps to reckon with for one instance.
///
/// An instance has 2 to 4 of its own. Where a pool was filled until the limit of 65,530 stopped it, it held 12,744 small
/// instances: 5.14 maps each with all that stands around them. Rounded up.
pub const MAPS_PER_INSTANCE: u64 = 6;

/// Maps that are left to everything else at the least: threads, machine code of functions, the allocator.
const MARGIN_MAPS_MIN: u64 = 2_048;

/// Most live instances (inclusive) under the process limit `vm.max_map_count`.
///
/// A process that reaches the limit does not get an error where it can be answered: any allocation or thread may be the one
/// that fails, and the process aborts. So a quarter of the limit, and at least 2,048 maps, stays free:
///
/// `(max_map_count − maps_in_use − max(max_map_count ÷ 4, 2,048)) ÷ maps_per_instance`, rounded down, at least 0.
///
/// `maps_in_use` are those of the process before the first instance. `maps_per_instance` is [`MAPS_PER_INSTANCE`] unless
/// measured; 0 is taken as 1. An answer of 0 means that the limit must be raised before anything can run.
pub fn instances_cap(max_map_count: u64, maps_in_use: u64, maps_per_instance: u64) -> u32 {
    let margin = (max_map_count / 4).max(MARGIN_MAPS_MIN);
    let free = max_map_count.saturating_sub(maps_in_use).saturating_sub(margin);
    u32::try_from(free / maps_per_instance.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limit_leaves_a_quarter() {
        // 65,530 − 500 − 16,382 = 48,648.
        assert_eq!(instances_cap(65_530, 500, MAPS_PER_INSTANCE), 8_108);
        assert_eq!(instances_cap(65_530, 500, 4), 12_162);
        assert_eq!(instances_cap(1_048_576, 500, MAPS_PER_INSTANCE), 130_988);
    }

    #[test]
    fn small_limits_keep_the_least_margin_and_never_wrap() {
        assert_eq!(instances_cap(4_096, 1_000, 6), 174);
        assert_eq!(instances_cap(3_000, 1_000, 6), 0);
        assert_eq!(instances_cap(0, u64::MAX, 0), 0);
        assert_eq!(instances_cap(u64::MAX, 0, 0), u32::MAX);
        assert_eq!(instances_cap(3_049, 1_000, 0), 1);
    }
}
