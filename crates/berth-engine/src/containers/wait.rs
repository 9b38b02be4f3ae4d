//! Waiting for a container's end.

use std::future::Future;

use berth_api::container::WaitResponse;
use berth_api::options::WaitCondition;

use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Registers at once, so that no later end is missed, and gives a future of the answer.
    pub fn wait_container(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = WaitResponse> + Send + use<>, EngineError> {
        let container = self.registry().find(name)?;
        let mut ends = container.watch_ends();
        let count = ends.borrow_and_update().count;
        let state = container.state();
        let over = matches!(condition, WaitCondition::NotRunning)
            && !state.is_running()
            && state.status != super::state::Status::Restarting;
        Ok(async move {
            if over {
                return answer(state.exit_code);
            }
            let end = ends.wait_for(|ends| match condition {
                WaitCondition::Removed => ends.removed,
                WaitCondition::NotRunning | WaitCondition::NextExit => {
                    ends.count > count || ends.removed
                }
            });
            match end.await {
                Ok(ends) => answer(ends.exit_code),
                // The container is gone, and everybody who could announce anything with it.
                Err(_gone) => answer(state.exit_code),
            }
        })
    }
}

fn answer(exit_code: i32) -> WaitResponse {
    WaitResponse { status_code: i64::from(exit_code), error: None }
}
