//! Wire-true simulated clouds: Tencent EKSCI and Alibaba ECI.
