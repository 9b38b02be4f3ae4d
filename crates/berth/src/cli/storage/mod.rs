//! `storage`: looking after what is below images and containers.

mod args;
mod backup;
mod check;
mod device;
mod extend;
mod info;
mod progress;
mod repair;

use berth_client::Client;

pub(super) use args::StorageArgs;
use args::StorageCommand;

use super::error::CliError;

/// What needs no daemon.
pub(super) fn without_daemon(args: &StorageArgs) -> Option<Result<u8, CliError>> {
    let StorageCommand::Restore { source, data_root, format } = &args.command else { return None };
    Some(backup::restore(source, data_root, format.is_some()))
}

pub(super) async fn storage(client: &Client, args: StorageArgs) -> Result<u8, CliError> {
    match args.command {
        StorageCommand::Info { format } => info::info(client, format.as_deref()).await,
        StorageCommand::Check { deep, format } => {
            check::check(client, deep, format.is_some()).await
        }
        StorageCommand::Repair { deep, dry_run, format } => {
            repair::repair(client, deep, dry_run, format.is_some()).await
        }
        StorageCommand::Backup { volumes, pause, format, dest } => {
            let as_json = format.is_some();
            backup::backup(client, backup::Asked { dest, volumes, pause, as_json }).await
        }
        StorageCommand::Device(args) => device::device(client, args.command).await,
        StorageCommand::Extend(args) => extend::extend(client, &args).await,
        // Done before there is a client.
        StorageCommand::Restore { .. } => Ok(0),
    }
}
