//! The adapter to Tencent Cloud EKSCI.
