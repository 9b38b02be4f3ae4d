//! libcontainer's last step inside the container: give up what the program must not have, find the
//! program, execute it.

use std::collections::HashMap;
use std::rc::Rc;

use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use oci_spec::runtime::{Process, Spec};

use crate::confine::Confinement;
use crate::error::failure;
use crate::program::Program;
use crate::status::Report;

/// Docker's exit code of a container that could not be started, but for its program.
const NOT_STARTED: i32 = 128;

/// Tells the watcher in runc's words when there is no such program.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) report: Report,
    /// What the program must not have.
    pub(crate) confinement: Rc<Confinement>,
}

impl Launch {
    fn refuse(&self, text: String) -> ExecutorValidationError {
        let told = failure(text, NOT_STARTED);
        self.report.failure(&told);
        ExecutorValidationError::ArgValidationError(told.message)
    }
}

impl Executor for Launch {
    /// The first thing of ours that runs inside the container, with all that libcontainer needed
    /// still held: gives it up, and then looks for the program with what is left.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let no_new_privileges = process.and_then(Process::no_new_privileges).unwrap_or(false);
        let put_on = self.confinement.put_on(no_new_privileges);
        put_on.map_err(|error| self.refuse(berth_types::kind::chain(&error)))?;
        program(spec).check().map_err(|text| self.refuse(text))
    }

    /// Nothing: the environment is given with the program, in its order.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    /// After the start nobody listens any more: the container's standard error is told.
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        crate::say(&program(spec).execute());
        end_as_runc_does()
    }
}

fn program(spec: &Spec) -> Program<'_> {
    let process = spec.process().as_ref();
    Program {
        args: process.and_then(|process| process.args().as_deref()).unwrap_or_default(),
        env: process.and_then(|process| process.env().as_deref()).unwrap_or_default(),
        uid: process.map_or(0, |process| process.user().uid()),
    }
}

#[expect(clippy::exit, reason = "libcontainer would end this process with 255, runc ends with 1")]
fn end_as_runc_does() -> ! {
    std::process::exit(1)
}
