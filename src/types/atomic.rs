//! The atomic operations by name and number, shared by whoever asks for them and whoever carries them out.

/// What an atomic operation computes.
///
/// *Integer* operations read the old value and the operand as integers of 64 bits: the last eight bytes, big-endian,
/// two's complement; what is shorter is filled with zero bytes on the left. They write eight bytes.
///
/// *Bitwise* operations work byte by byte; the shorter side is filled with zero bytes on the right, so the new value is
/// as long as the longer side.
///
/// | op | missing old value | new value | result |
/// |---|---|---|---|
/// | Add | counts as 0 | old + operand, modulo 2^64 | the new value |
/// | Min, Max | counts as the operand | the lesser, the greater, as signed integers | the new value |
/// | And, Or, Xor | new value is the operand | bitwise | the new value |
/// | ByteMin, ByteMax | new value is the operand | the lesser, the greater, bytewise, a prefix being the lesser | the new value |
/// | Append | counts as empty | old then operand; unchanged if that were too long for a value | length of the value afterwards, eight bytes |
/// | CompareAndDelete | stays absent | absent if old equals the operand, else unchanged | one byte: 1 if it deleted, else 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AtomicOp {
    /// The sum, modulo 2^64.
    Add = 1,
    /// The lesser signed integer.
    Min = 2,
    /// The greater signed integer.
    Max = 3,
    /// Bitwise and.
    And = 4,
    /// Bitwise or.
    Or = 5,
    /// Bitwise exclusive or.
    Xor = 6,
    /// The bytewise lesser of the two.
    ByteMin = 7,
    /// The bytewise greater of the two.
    ByteMax = 8,
    /// The old value with the operand behind it.
    Append = 9,
    /// Deletes the key if its value equals the operand.
    CompareAndDelete = 10,
}

impl AtomicOp {
    /// Every operation, in the order of their numbers.
    pub const ALL: [AtomicOp; 10] = [
        AtomicOp::Add,
        AtomicOp::Min,
        AtomicOp::Max,
        AtomicOp::And,
        AtomicOp::Or,
        AtomicOp::Xor,
        AtomicOp::ByteMin,
        AtomicOp::ByteMax,
        AtomicOp::Append,
        AtomicOp::CompareAndDelete,
    ];

    /// The operation of this number.
    #[must_use]
    pub fn from_u8(op: u8) -> Option<AtomicOp> {
        AtomicOp::ALL.get(usize::from(op).checked_sub(1)?).copied()
    }
}
