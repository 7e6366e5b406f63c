//! `banger image pull`.

use banger_protocol::api::image::{Image, PullImage};
use banger_protocol::api::operation::{Operation, OperationResult};
use banger_protocol::api::path;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::{ImageName, KernelName};
use clap::Args;
use clap_complete::ArgValueCompleter;
use hyper::Method;

use crate::client::{Client, upload, with_query};
use crate::commands::Context;
use crate::failure::{Failure, Outcome};
use crate::source::{self, Local, Source};
use crate::{completion, credentials, operate, output};

const EXAMPLES: &str = "\
Examples:
  banger image pull debian:bookworm                 named debian-bookworm
  banger image pull debian-12                       one of the catalog
  banger image pull ghcr.io/team/app@sha256:…  --name app
  banger image pull oci:./layout:v1                 an OCI image layout
  banger image pull oci-archive:app.tar
  docker save app:1 | banger image pull docker-archive:/dev/stdin --name app
  banger image pull rootfs:./tree --name mine       a directory or tar, owners as numbers

Credentials are those of docker's config.json and its helpers. Local sources are read as you.";

/// Get an image: from a registry, the catalog, an archive or a directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Pull {
    /// A catalog name, a reference, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:REFERENCE], rootfs:DIR-or-TAR
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Local name [default: last component of the path, and the tag]
    #[arg(long, value_name = "NAME")]
    name: Option<ImageName>,
    /// Kernel that machines of this image boot
    #[arg(long = "kernel", alias = "kernel-ref", value_name = "NAME",
          add = ArgValueCompleter::new(completion::kernels))]
    kernel: Option<KernelName>,
}

pub async fn run(context: &Context, args: Pull) -> Outcome {
    let source = source::parse(&args.source, std::path::Path::exists)?;
    let operation = match source {
        Source::Reference(reference) => {
            let client = context.client().await?;
            pull(context, &client, reference, args.name, args.kernel).await?
        }
        Source::Local(local) => {
            let local = local.locate()?;
            let name = match args.name.or_else(|| source::default_name(&local)) {
                Some(name) => name,
                None => {
                    return Err(Failure::from(
                        ApiError::new(
                            ErrorKind::InvalidArgument,
                            format!("{:?} suggests no name for the image", args.source),
                        )
                        .hint("give it one with --name"),
                    ));
                }
            };
            let client = context.client().await?;
            import(context, &client, local, name, args.kernel).await?
        }
    };
    match operate::result(operation)? {
        OperationResult::Image { image } => print(context, &image)?,
        other => return Err(operate::unexpected(&other).into()),
    }
    Ok(0)
}

fn print(context: &Context, image: &Image) -> Result<(), Failure> {
    if context.json {
        output::print_json(image)
    } else {
        output::print(&format!("{}\n", image.name))
    }
}

async fn pull(
    context: &Context,
    client: &Client,
    reference: String,
    name: Option<ImageName>,
    kernel: Option<KernelName>,
) -> Result<Operation, Failure> {
    let request = PullImage {
        credentials: credentials::for_reference(&context.environment, &reference).await?,
        reference,
        name,
        kernel,
    };
    let shown = context.progress().operation(None);
    let events = client.events(Method::POST, path::IMAGE_PULL, Some(&request));
    operate::operate(client, events, shown).await
}

async fn import(
    context: &Context,
    client: &Client,
    local: Local,
    name: ImageName,
    kernel: Option<KernelName>,
) -> Result<Operation, Failure> {
    let kind = serde_json::to_value(local.archive_kind())
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned));
    let path = with_query(
        path::IMAGE_IMPORT,
        &[
            ("kind", kind),
            ("name", Some(name.into())),
            ("source", Some(local.text())),
            ("tag", local.tag.clone()),
            ("kernel", kernel.map(String::from)),
        ],
    );
    let (body, sent) = upload(move |out| local.write(out));
    let shown = context.progress().operation(None);
    operate::operate(client, client.upload(&path, body), shown)
        .await
        // What we could not read explains a broken request better than the other end can.
        .map_err(|failure| sent.failure().map_or(failure, Failure::from))
}
