//! The adapter to Alibaba Cloud ECI.
