// SPDX-License-Identifier: Apache-2.0
//! Functions of Rego whose own implementation a policy must not reach: they take from the process what
//! its argument asks for, or answer differently each time. The interpreter asks extensions before its own.

use regorus::{Engine, Value};

/// Elements of a range.
const MAX_RANGE: i64 = 100_000;

/// Puts the functions into the engine.
pub(super) fn replace(engine: &mut Engine) -> anyhow::Result<()> {
    // `numbers.range(1, 10000000000)` asks for 240 GB at once, and the process dies of the refusal.
    engine.add_extension(
        "numbers.range".into(),
        2,
        Box::new(|args| match &args[..] {
            [from, to] => range(from, to, &Value::from(1u64)),
            _ => anyhow::bail!("numbers.range takes two numbers"),
        }),
    )?;
    engine.add_extension(
        "numbers.range_step".into(),
        3,
        Box::new(|args| match &args[..] {
            [from, to, step] => range(from, to, step),
            _ => anyhow::bail!("numbers.range_step takes three numbers"),
        }),
    )?;
    // A shift by 4000000000 makes a number of half a gigabyte.
    engine.add_extension(
        "bits.lsh".into(),
        2,
        Box::new(|args| match &args[..] {
            [number, shift] => shifted(number, shift),
            _ => anyhow::bail!("bits.lsh takes two numbers"),
        }),
    )?;
    // The same container gets the same decision.
    engine.add_extension(
        "rand.intn".into(),
        2,
        Box::new(|_| {
            anyhow::bail!("a decision is not left to chance: rand.intn has no value here")
        }),
    )
}

fn whole(value: &Value) -> anyhow::Result<i64> {
    value
        .as_i64()
        .map_err(|_| anyhow::anyhow!("{value} is no integer of 64 bits"))
}

fn range(from: &Value, to: &Value, step: &Value) -> anyhow::Result<Value> {
    let (from, to, step) = (whole(from)?, whole(to)?, whole(step)?);
    if step <= 0 {
        anyhow::bail!("the step of a range is positive, and {step} is not");
    }
    let distance = to.abs_diff(from) / step.unsigned_abs();
    if distance >= MAX_RANGE.unsigned_abs() {
        anyhow::bail!("a range has at most {MAX_RANGE} numbers, and {from} to {to} has more");
    }
    let step = if from <= to { step } else { -step };
    let numbers = (0..=distance as i64).map(|index| Value::from(from + index * step));
    Ok(Value::from(numbers.collect::<Vec<_>>()))
}

fn shifted(number: &Value, shift: &Value) -> anyhow::Result<Value> {
    let (number, shift) = (whole(number)?, whole(shift)?);
    (0..63)
        .contains(&shift)
        .then(|| 1i64 << shift)
        .and_then(|factor| number.checked_mul(factor))
        .map(Value::from)
        .ok_or_else(|| anyhow::anyhow!("{number} shifted left by {shift} has more than 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_rego() {
        let of = |from: i64, to: i64, step: i64| {
            range(&from.into(), &to.into(), &step.into())
                .map(|range| range.to_string())
                .map_err(|error| error.to_string())
        };
        assert_eq!(of(1, 3, 1).unwrap(), "[1,2,3]");
        assert_eq!(of(3, 1, 1).unwrap(), "[3,2,1]");
        assert_eq!(of(-2, -2, 1).unwrap(), "[-2]");
        assert_eq!(of(0, 10, 4).unwrap(), "[0,4,8]");
        assert_eq!(of(10, 0, 4).unwrap(), "[10,6,2]");
        assert!(of(1, 3, 0).unwrap_err().contains("positive"));
        assert!(of(1, 100_000, 1).is_ok());
        assert!(of(0, 100_000, 1).unwrap_err().contains("at most 100000"));
        assert!(of(i64::MIN, i64::MAX, 1).unwrap_err().contains("at most"));
        assert!(of(i64::MAX - 1, i64::MAX, 1).is_ok());
        assert!(of(i64::MIN, i64::MIN, i64::MAX).is_ok());
    }

    #[test]
    fn a_shift_stays_a_number_of_64_bits() {
        let of = |number: i64, by: i64| shifted(&number.into(), &by.into()).map(|v| v.to_string());
        assert_eq!(of(5, 3).unwrap(), "40");
        assert_eq!(of(-1, 4).unwrap(), "-16");
        assert!(of(1, 63).is_err());
        assert!(of(1, 4_000_000_000).is_err());
        assert!(of(1, -1).is_err());
    }
}
