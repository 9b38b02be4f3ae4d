//! A container's network, name files and volumes, around a run.

use berth_api::container::{EndpointSettings, NetworkSettings};
use berth_networks::{DnsConfig, NameFiles, Plug, Sandbox};
use berth_runtime::mounts::{Access, MountKind as Kind, ResolvedMount};
use berth_runtime::spec::EtcFiles;
use berth_types::{Owner, kind};
use berth_volumes::mounts::{ContainerMount, MountKind, ReadOnlyDepth};

use super::record::Record;
use super::users::Namespaces;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Gives a container its network.
    pub(crate) fn plug_in(
        &self,
        record: &Record,
        namespaces: Option<&Namespaces>,
    ) -> Result<Sandbox, EngineError> {
        let keep_ipv6 = record.host.sysctls.keys().any(|key| key.starts_with("net.ipv6."));
        let namespace = namespaces.map(Namespaces::network);
        let plug = Plug {
            container: &record.id,
            mode: record.network.mode,
            mac: &record.network.mac,
            keep_ipv6,
            namespace: namespace.as_deref(),
        };
        Ok(self.networks().connect(&plug)?)
    }

    /// Takes a container off its network; a failure is logged, and the next start of the engine
    /// clears what is left.
    pub(crate) fn unplug(&self, record: &Record) {
        match self.networks().disconnect(&record.id) {
            Ok(Some(endpoint)) => {
                let kind = self.networks().of_mode(record.network.mode).driver;
                let attributes = [
                    ("container", record.id.as_str()),
                    ("name", endpoint.network.as_str()),
                    ("type", kind.as_str()),
                ];
                let network = endpoint.network_id.as_str();
                self.events().publish("network", "disconnect", network, attributes);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(
                container = %record.id, error = %kind::chain(&error), "network not cleared"
            ),
        }
    }

    /// `NetworkSettings` as inspect shows them.
    pub(crate) fn network_settings(&self, record: &Record) -> NetworkSettings {
        let requested = EndpointSettings {
            mac_address: record.network.mac.clone(),
            ..EndpointSettings::default()
        };
        self.networks().settings(&record.id, record.network.mode, &requested)
    }

    /// Writes the files that appear as `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
    pub(crate) fn write_name_files(
        &self,
        record: &Record,
        sandbox: &Sandbox,
    ) -> Result<EtcFiles, EngineError> {
        let host = &record.host;
        let dns = DnsConfig {
            servers: host.dns.iter().filter_map(|server| server.parse().ok()).collect(),
            search: host.dns_search.to_vec(),
            options: host.dns_options.to_vec(),
        };
        let files = NameFiles {
            mode: record.network.mode,
            address: sandbox.endpoint.address,
            host_gateway: self.networks().gateway(),
            hostname: &record.config.hostname,
            domainname: &record.config.domainname,
            extra_hosts: &host.extra_hosts,
            dns: &dns,
        };
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let host_hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let config = self.config();
        let daemon = DnsConfig {
            servers: config.dns.clone(),
            search: config.dns_search.clone(),
            options: config.dns_opts.clone(),
        };
        let dir = self.container_dir(&record.id);
        let owner = self.ids().root();
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            // The container sees the very file: it is rewritten in place, and need not survive a
            // power cut, for each start writes it again.
            let written = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)
                .and_then(|mut file| {
                    if owner != Owner::ROOT {
                        std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
                    }
                    std::io::Write::write_all(&mut file, text.as_bytes())
                });
            written.map_err(EngineError::io("write", &path)).map(|()| Some(path))
        };
        Ok(EtcFiles {
            hosts: write("hosts", files.hosts(&host_hosts)?)?,
            hostname: write("hostname", files.hostname())?,
            resolv_conf: write("resolv.conf", files.resolv_conf(&resolv, &daemon))?,
        })
    }

    /// Makes the container's volumes usable and says what the runtime mounts where.
    pub(crate) fn attach_volumes(
        &self,
        record: &Record,
    ) -> Result<Vec<ResolvedMount>, EngineError> {
        let mut mounts = Vec::with_capacity(record.mounts.len());
        for mount in &record.mounts {
            mounts.push(self.resolve_mount(record, mount)?);
        }
        Ok(mounts)
    }

    fn resolve_mount(
        &self,
        record: &Record,
        mount: &ContainerMount,
    ) -> Result<ResolvedMount, EngineError> {
        let kind = match mount.kind {
            MountKind::Tmpfs => Kind::Tmpfs { options: mount.tmpfs_options.join(",") },
            MountKind::Bind => {
                mount.ensure_source(self.ids().root())?;
                bind(mount.source.clone(), mount)
            }
            MountKind::Volume => {
                bind(self.volumes().attach(&mount.volume, record.id.as_str())?, mount)
            }
        };
        let access = match (mount.rw, mount.read_only_depth) {
            (true, _) => Access::ReadWrite,
            (false, ReadOnlyDepth::Recursive) => Access::ReadOnly,
            (false, ReadOnlyDepth::Top) => Access::ReadOnlyNonRecursive,
            (false, ReadOnlyDepth::ForceRecursive) => Access::ReadOnlyForceRecursive,
        };
        Ok(ResolvedMount { kind, destination: mount.destination.clone(), access })
    }

    /// Says that the container no longer uses its volumes.
    pub(crate) fn detach_volumes(&self, record: &Record) {
        for mount in &record.mounts {
            if mount.kind != MountKind::Volume {
                continue;
            }
            if let Err(error) = self.volumes().detach(&mount.volume, record.id.as_str()) {
                tracing::warn!(
                    volume = mount.volume, error = %kind::chain(&error), "volume not unmounted"
                );
            }
            let attributes = [("container", record.id.as_str()), ("driver", mount.driver.as_str())];
            self.events().publish("volume", "unmount", &mount.volume, attributes);
        }
    }
}

fn bind(source: std::path::PathBuf, mount: &ContainerMount) -> Kind {
    Kind::Bind { source, recursive: mount.recursive, propagation: mount.propagation.clone() }
}
