//! The pages of this project's documentation, as they are in its folder `docs`.

/// Gives a page its links to other pages, which are files elsewhere.
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[doc = "[Anchors]: crate::docs::anchors"]
        #[doc = "[Deployment]: crate::docs::deployment"]
        #[doc = "[FAQ]: crate::docs::faq"]
        #[doc = "[For reviewers]: crate::docs::reviewers"]
        #[doc = "[GPU]: crate::docs::gpu"]
        #[doc = "[Loading and serving]: crate::docs::serving"]
        #[doc = "[Measured]: crate::docs::measured"]
        #[doc = "[Monitoring]: crate::docs::monitoring"]
        #[doc = "[SECURITY.md]: crate::docs::security"]
        #[doc = "[Testing]: crate::docs::testing"]
        #[doc = "[The audit trail]: crate::docs::trail"]
        #[doc = "[The ledger of misuse]: crate::docs::misuse"]
        #[doc = "[Trail format]: crate::audit::format"]
        #[doc = ""]
        #[doc = include_str!($file)]
        pub mod $name {}
    };
}

page!(anchors, "../docs/anchors.md");
page!(deployment, "../docs/deployment.md");
page!(faq, "../docs/faq.md");
page!(gpu, "../docs/gpu.md");
page!(measured, "../docs/measured.md");
page!(misuse, "../docs/misuse.md");
page!(monitoring, "../docs/monitoring.md");
page!(reviewers, "../docs/reviewers.md");
page!(security, "../SECURITY.md");
page!(serving, "../docs/serving.md");
page!(testing, "../docs/testing.md");
page!(trail, "../docs/trail.md");
