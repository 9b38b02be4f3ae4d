//! The few rtnetlink conversations that the bridge driver has with the kernel.
//!
//! One blocking socket for each conversation, in the network namespace of the calling thread.
//! Several requests travel in one datagram: the kernel answers them in order.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

use ipnet::Ipv4Net;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};

/// A conversation with the kernel.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// What the kernel says about an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) is_bridge: bool,
}

/// A change to ask for.
pub(crate) struct Change {
    message: RouteNetlinkMessage,
    flags: u16,
}

/// The two ends of a veth pair.
pub(crate) struct VethPair<'a> {
    pub(crate) host: &'a str,
    pub(crate) bridge: u32,
    pub(crate) inside: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) namespace: RawFd,
}

impl Change {
    fn add(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: NLM_F_CREATE | NLM_F_EXCL }
    }

    pub(crate) fn add_bridge(name: &str, mac: [u8; 6], mtu: u32) -> Self {
        let mut builder = LinkBridge::new(name).address(mac.to_vec()).up();
        if mtu != 0 {
            builder = builder.mtu(mtu);
        }
        Self::add(RouteNetlinkMessage::NewLink(builder.build()))
    }

    /// Both ends in one request: the host's is on the bridge and up, the other is born inside the
    /// namespace with its name.
    pub(crate) fn add_veth(pair: &VethPair<'_>) -> Self {
        let mut peer = LinkUnspec::new_with_name(pair.inside)
            .address(pair.mac.to_vec())
            .setns_by_fd(pair.namespace);
        let mut host = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(pair.host)
            .controller(pair.bridge)
            .up();
        if pair.mtu != 0 {
            peer = peer.mtu(pair.mtu);
            host = host.mtu(pair.mtu);
        }
        let host = host.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        Self::add(RouteNetlinkMessage::NewLink(host.build()))
    }

    pub(crate) fn delete_link(name: &str) -> Self {
        let message = LinkUnspec::new_with_name(name).build();
        Self { message: RouteNetlinkMessage::DelLink(message), flags: 0 }
    }

    pub(crate) fn up(index: u32) -> Self {
        let message = LinkUnspec::new_with_index(index).up().build();
        Self { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
    }

    pub(crate) fn add_address(index: u32, address: Ipv4Addr, prefix: u8) -> Self {
        let builder = AddressMessageBuilder::<Ipv4Addr>::new().index(index);
        Self::add(RouteNetlinkMessage::NewAddress(builder.address(address, prefix).build()))
    }

    pub(crate) fn add_default_route(gateway: Ipv4Addr) -> Self {
        let message = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        Self::add(RouteNetlinkMessage::NewRoute(message))
    }
}

impl Netlink {
    /// A conversation in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for all changes in one datagram; the error is that of the first that failed.
    pub(crate) fn change(&mut self, changes: Vec<Change>) -> io::Result<()> {
        let mut datagram = Vec::new();
        let first = self.sequence + 1;
        for change in changes {
            self.append(&mut datagram, change.message, NLM_F_ACK | change.flags);
        }
        self.socket.send(&datagram, 0)?;
        let mut pending = self.sequence + 1 - first;
        let mut result = Ok(());
        while pending > 0 {
            self.receive(|sequence, payload| {
                if let NetlinkPayload::Error(error) = payload
                    && sequence >= first
                {
                    pending -= 1;
                    if error.code.is_some() && result.is_ok() {
                        result = Err(error.to_io());
                    }
                }
            })?;
        }
        result
    }

    /// The interface of that name; `None` when there is none.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let request = LinkUnspec::new_with_name(name).build();
        let answer = self.ask(RouteNetlinkMessage::GetLink(request), 0)?;
        Ok(answer.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(read_link(&link)),
            _ => None,
        }))
    }

    /// The IPv4 addresses of an interface.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<(Ipv4Addr, u8)>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answer = self.ask(request, NLM_F_DUMP)?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) if address.header.index == index => {
                    read_address(&address)
                }
                _ => None,
            })
            .collect())
    }

    /// The destinations of all IPv4 routes but the default one, those of `except` left out.
    pub(crate) fn routes(&mut self, except: Option<u32>) -> io::Result<Vec<Ipv4Net>> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let answer = self.ask(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP)?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => read_route(&route, except),
                _ => None,
            })
            .collect())
    }

    fn append(&mut self, datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = datagram.len();
        datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut datagram[start..]);
    }

    /// A question; no such interface is an empty answer.
    fn ask(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut datagram = Vec::new();
        self.append(&mut datagram, question, flags);
        self.socket.send(&datagram, 0)?;
        let asked = self.sequence;
        let (mut answer, mut done, mut result) = (Vec::new(), false, Ok(()));
        while !done {
            self.receive(|sequence, payload| {
                if sequence != asked {
                    return;
                }
                match payload {
                    NetlinkPayload::InnerMessage(message) => {
                        answer.push(message);
                        done = flags & NLM_F_DUMP != NLM_F_DUMP;
                    }
                    NetlinkPayload::Error(error) => {
                        done = true;
                        if error.code.is_some() {
                            result = Err(error.to_io());
                        }
                    }
                    NetlinkPayload::Done(_) => done = true,
                    _ => {}
                }
            })?;
        }
        match result {
            Err(error) if is_no_device(&error) => Ok(Vec::new()),
            other => other.map(|()| answer),
        }
    }

    /// Takes one datagram apart.
    fn receive(
        &mut self,
        mut take: impl FnMut(u32, NetlinkPayload<RouteNetlinkMessage>),
    ) -> io::Result<()> {
        let (datagram, _) = self.socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while rest.len() >= HEADER {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = message.header.length as usize;
            if length < HEADER {
                break;
            }
            let (header, payload) = message.into_parts();
            take(header.sequence_number, payload);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

const HEADER: usize = 16;

/// `ENODEV`: no interface of that name.
pub(crate) fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// `EEXIST`.
pub(crate) fn is_there_already(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::EXIST.raw_os_error())
}

fn read_link(link: &LinkMessage) -> Link {
    let is_bridge = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => {
            infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)))
        }
        _ => false,
    });
    Link { index: link.header.index, is_bridge }
}

fn read_address(message: &AddressMessage) -> Option<(Ipv4Addr, u8)> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some((*address, message.header.prefix_len)),
        _ => None,
    })
}

fn read_route(message: &RouteMessage, except: Option<u32>) -> Option<Ipv4Net> {
    let prefix = message.header.destination_prefix_length;
    let (mut destination, mut device) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                destination = Some(*address);
            }
            RouteAttribute::Oif(index) => device = Some(*index),
            _ => {}
        }
    }
    if prefix == 0 || (device.is_some() && device == except) {
        return None;
    }
    destination.and_then(|address| Ipv4Net::new(address, prefix).ok())
}
