//! Figures of the engine as a whole, by the names that Docker gives them.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{by, gauge, gauges};
use crate::engine::Engine;
use crate::system::{VERSION, kernel, os_release};

impl Engine {
    pub(super) fn engine_metrics(&self, registry: &mut Registry) {
        let counts = self.counts();
        gauges(
            registry,
            "engine_daemon_container_states_containers",
            "The count of containers in various states",
            by(
                "state",
                [
                    ("paused", counts.paused),
                    ("running", counts.running),
                    ("stopped", counts.stopped()),
                ],
            ),
        );
        gauge(
            registry,
            "engine_daemon_engine_cpus_cpus",
            "The number of cpus that the host system of the engine has",
            self.host().cpus,
        );
        gauge(
            registry,
            "engine_daemon_engine_memory_bytes",
            "The number of bytes of memory that the host system of the engine has",
            berth_sys::system::total_memory(),
        );
        let labels = [
            ("architecture", std::env::consts::ARCH.to_owned()),
            // Docker names the commit that it was built of here.
            ("commit", String::new()),
            ("daemon_id", self.id().to_owned()),
            ("graphdriver", self.layers().driver().name().to_owned()),
            ("kernel", kernel()),
            ("os", os_release("PRETTY_NAME")),
            ("os_type", "linux".to_owned()),
            ("os_version", os_release("VERSION_ID")),
            ("version", VERSION.to_owned()),
        ];
        gauges(
            registry,
            "engine_daemon_engine_info",
            "The information related to the engine and the OS it is running on",
            [(labels.to_vec(), 1)],
        );
        let events = Counter::<u64>::default();
        events.inc_by(self.events().published());
        registry.register("engine_daemon_events", "The number of events logged", events);
        gauge(
            registry,
            "engine_daemon_events_subscribers_total",
            "The number of current subscribers to events",
            self.events().listeners(),
        );
    }
}
