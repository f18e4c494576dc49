//! What can go wrong between a request and a launch.

/// Why a kernel was not launched.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The arguments do not describe a product that the kernel computes.
    #[error("{kernel}: {what}")]
    Argument {
        /// The family.
        kernel: &'static str,
        /// What came, what was wanted, what helps.
        what: String,
    },
    /// The template does not expand.
    #[error("{template}:{line}: {error}")]
    Template {
        /// The template's file.
        template: String,
        /// Its line.
        line: usize,
        /// What the engine says.
        error: minijinja::Error,
    },
    /// The driver refused.
    #[error("{kernel}: {action}: {error:?}")]
    Driver {
        /// The kernel's name.
        kernel: String,
        /// What was asked of the driver.
        action: &'static str,
        /// Its answer.
        error: cudarc::driver::DriverError,
    },
}
