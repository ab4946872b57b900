//! HTTP/2 on the client pod's interface: frames are followed both ways, and a GOAWAY is put in when wanted.
//!
//! Every connection whose packets are not fully understood is left alone. The rule under which
//! processors share a connection stands in `balancer_common::http2::gate`.

mod flows;
mod held;
mod inbound;
mod outbound;
mod packet;
mod places;
mod request;
mod streams;
mod totals;
mod walk;

pub(crate) use self::{
    flows::{closed, established},
    inbound::inbound,
    outbound::outbound,
    request::request,
};

/// Lets the next program on the interface see the packet, and then the kernel (`TC_ACT_UNSPEC`).
const PASS: i32 = -1;
/// Drops the packet, so that its sender repeats it (`TC_ACT_SHOT`).
const DROP: i32 = 2;
